"""Vector memory in an environment."""

from sage.middleware.services.memory.registry import register_memory_service

__all__ = ["register_memory_service"]
