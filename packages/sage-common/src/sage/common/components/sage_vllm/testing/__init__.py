"""Engines and models for tests, documents and examples: real protocols, next to no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.testing.canned_answer import CannedAnswer
    from sage.common.components.sage_vllm.testing.echo_engine import (
        EchoEngine,
        write_echo_model,
    )
    from sage.common.components.sage_vllm.testing.sleeping_engine import SleepingEngine
    from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
    from sage.common.components.sage_vllm.testing.tiny_vision_model import (
        write_tiny_vision_model,
    )

__all__ = [
    "CannedAnswer",
    "EchoEngine",
    "SleepingEngine",
    "write_echo_model",
    "write_tiny_model",
    "write_tiny_vision_model",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CannedAnswer": "sage.common.components.sage_vllm.testing.canned_answer",
        "EchoEngine": "sage.common.components.sage_vllm.testing.echo_engine",
        "SleepingEngine": "sage.common.components.sage_vllm.testing.sleeping_engine",
        "write_echo_model": "sage.common.components.sage_vllm.testing.echo_engine",
        "write_tiny_model": "sage.common.components.sage_vllm.testing.tiny_model",
        "write_tiny_vision_model": "sage.common.components.sage_vllm.testing.tiny_vision_model",
    },
)
