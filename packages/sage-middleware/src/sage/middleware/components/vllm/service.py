"""The vLLM service under the name that SAGE's middleware has always had for it."""

from __future__ import annotations

from sage.common.components.sage_vllm.service import VLLMService, VLLMServiceConfig

__all__ = ["VLLMService", "VLLMServiceConfig"]
