"""The vLLM service under the name that SAGE's middleware has always had for it."""

from sage.common.components.sage_vllm.service import VLLMService, VLLMServiceConfig

__all__ = ["VLLMService", "VLLMServiceConfig"]
