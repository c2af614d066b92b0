"""What requests become before an engine of vLLM takes them."""
