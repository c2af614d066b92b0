"""Durable runs: what `submit(checkpoint=...)` keeps, and what a sink needs to take part."""

from __future__ import annotations

from sage.kernel.runtime.checkpoint.checkpoint import Checkpoint
from sage.kernel.runtime.checkpoint.durable_sink import DurableSink
from sage.kernel.runtime.checkpoint.durable_sinks import DurableSinks
from sage.kernel.runtime.checkpoint.errors import (
    CheckpointError,
    CheckpointInUseError,
    CheckpointMismatchError,
    InputChangedError,
    ServiceChangedError,
    UnsupportedPipelineError,
)
from sage.kernel.runtime.checkpoint.input_protocol import FingerprintedInput, InputChange

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointInUseError",
    "CheckpointMismatchError",
    "DurableSink",
    "DurableSinks",
    "FingerprintedInput",
    "InputChange",
    "InputChangedError",
    "ServiceChangedError",
    "UnsupportedPipelineError",
]
