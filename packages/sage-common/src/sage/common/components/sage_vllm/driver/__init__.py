"""The thread that steps a vLLM engine: requests, deadlines, crashes and replays."""
