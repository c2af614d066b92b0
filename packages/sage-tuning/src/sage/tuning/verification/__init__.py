"""The verification: what was trained, loaded by vLLM as it will be served, and compared."""
