"""All that touches vLLM itself, which is imported in this folder alone."""
