"""The registry of local models. Its public module is `sage.common.model_registry.vllm_registry`."""
