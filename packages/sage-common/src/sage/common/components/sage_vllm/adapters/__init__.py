"""The LoRA adapters of the registry: which calls use them, and how vLLM knows them."""
