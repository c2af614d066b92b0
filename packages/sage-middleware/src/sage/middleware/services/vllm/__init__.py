"""The vLLM service in an environment."""

from sage.middleware.services.vllm.registry import register_vllm_service

__all__ = ["register_vllm_service"]
