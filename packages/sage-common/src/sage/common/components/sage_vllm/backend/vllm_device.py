"""The device that the vLLM in this process computes on."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from sage.common.components.sage_vllm.errors import VLLMNotInstalledError
from sage.common.components.sage_vllm.host.engine_environment import (
    environment,
    import_environment,
    quiet_warnings,
)
from sage.common.components.sage_vllm.host.quick_imports import left_out, quick_imports
from sage.common.components.sage_vllm.planning.device import Device, this_cpu


def import_vllm(model_id: str) -> None:
    """Import vLLM, which then says little; raises VLLMNotInstalledError, which names the model."""
    try:
        _import_once()
    except ImportError as error:
        raise VLLMNotInstalledError(model_id, str(error)) from error


@cache
def _import_once() -> None:
    with environment(import_environment()), quick_imports(), without_ray():
        quiet_warnings()
        import vllm  # first, so that where both are missing it is the one named
        from transformers.utils.logging import get_logger  # noqa: F401 - reads its level

        # isort: split
        import vllm.v1.engine.llm_engine  # noqa: F401 - with it comes all that engines need


def without_ray() -> AbstractContextManager[None]:
    """Keep vLLM on this thread from importing Ray, unless the program has done so before.

    vLLM does it wherever Ray is installed. Ray then shows the whole program's errors, and a program
    that ends by Ctrl-C has the exit status 1 in place of 130.
    """
    return left_out(
        "ray", "SAGE keeps it out of vLLM unless it is imported before the first engine"
    )


def vllm_device() -> Device:
    """Return the device, as vLLM was built for it; ``import_vllm`` comes first."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return this_cpu()
    if not current_platform.is_cuda():
        return Device(kind="gpu")
    from vllm.utils.import_utils import import_pynvml

    nvml = import_pynvml()  # CUDA itself would make a context, here where nothing else needs one
    nvml.nvmlInit()
    try:
        number = current_platform.device_id_to_physical_device_id(0)
        memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(number))
        return Device(kind="gpu", free=memory.free, total=memory.total, numbers=_visible(nvml))
    finally:
        nvml.nvmlShutdown()


def _visible(nvml: Any) -> tuple[str, ...]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen:
        return tuple(name.strip() for name in chosen.split(","))
    return tuple(str(number) for number in range(nvml.nvmlDeviceGetCount()))
