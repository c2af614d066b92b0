"""One run of a pipeline: its functions, wiring, threads and state."""
