"""The checks that a model passes before an engine is built for it: trust, wholeness, memory."""

from __future__ import annotations

from collections.abc import Collection

from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.fit.memory_check import DEFAULT_SHARE, check_fits
from sage.common.components.sage_vllm.fit.memory_estimate import (
    Device,
    MemoryEstimate,
    estimate_memory,
)
from sage.common.components.sage_vllm.fit.model_trust import check_remote_code, check_weights


def check_model(
    spec: EngineSpec,
    *,
    device: Device,
    free: int | None,
    total: int | None,
    allow_pickle: bool = False,
    known_types: Collection[str] = (),
) -> MemoryEstimate:
    """Check that the model of ``spec`` may be loaded, is whole, and fits; return what it takes.

    Args:
        spec: its ``arguments`` must be all that the engine gets, the device's defaults included.
        device: what kind of device it runs on.
        free: bytes free on each device, the least of them; None skips the check of memory.
        total: bytes that each device has.
        allow_pickle: whether weights that can run code may be loaded.
        known_types: ``model_type``s that need no code from the model's folder.

    Raises:
        BrokenModelError: a file is missing, cut off or unreadable.
        PickledWeightsError, RemoteCodeError: loading would run code that nobody allowed.
        InsufficientMemoryError: it does not fit; it says what would.
    """
    option = "engine" if spec.role == "generate" else "embedding_engine"
    check_weights(spec.model_id, spec.path, spec.arguments, allow_pickle=allow_pickle)
    check_remote_code(
        spec.model_id, spec.path, spec.arguments, option=option, known_types=known_types
    )
    estimate = estimate_memory(spec, device)
    if free is not None and total is not None:
        share = spec.arguments.get("gpu_memory_utilization") or DEFAULT_SHARE
        check_fits(estimate, free=free, total=total, share=share if device == "gpu" else None)
    return estimate
