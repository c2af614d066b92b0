"""vLLM's own servers: starting, watching, showing and stopping them."""
