"""What is changed in vLLM so that several of its engines live in one process.

vLLM takes an inline engine for the only one there is: its kernels, its garbage collections, its
teardown. Each change says what would happen without it. They are made when an inline engine is
built, once, in the modules and classes of vLLM.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from sage.common.components.sage_vllm.mapped_memory import map_zeros

one_at_a_time = threading.RLock()
"""Held where inline engines compute."""


def share_process() -> None:
    """Prepare this process for inline engines."""
    from vllm.v1.engine import core

    if core.gc is _BriefGC:
        return
    _make_forward_passes_one_at_a_time()
    _register_kernels_once()
    _map_kv_caches()
    _keep_collections_short()


@contextmanager
def process_groups_kept() -> Iterator[None]:
    """Keep vLLM from destroying torch's process groups, which other inline engines still need.

    An EngineCore that shuts down always destroys them.
    """
    from vllm.v1.engine import core

    destroy = core.cleanup_dist_env_and_memory
    core.cleanup_dist_env_and_memory = gc.collect
    try:
        yield
    finally:
        core.cleanup_dist_env_and_memory = destroy


def keep_adapters_off_plain_requests() -> None:
    """Mend vLLM's LoRA on the CPU, which adapts requests that name no adapter too.

    Beside a request with an adapter, theirs is numbered -1, and that picks the last adapter that
    is loaded.
    """
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    shrink = lora_ops.bgmv_shrink
    if shrink.__module__ == __name__:
        return

    def shrink_adapted(
        inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0
    ) -> None:
        shrink(inputs, weights, output, indices, scaling)
        output[indices < 0] = 0

    lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = shrink_adapted


def _make_forward_passes_one_at_a_time() -> None:
    """Keep a model's first passes, in the build of an inline engine, out of others' steps.

    vLLM keeps the context of a forward pass in a global of a module, and its kernels for the CPU
    keep their scratch memory in one too: two threads at once would read each other's.
    """
    from vllm import forward_context
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    override = forward_context.override_forward_context

    @contextmanager
    def override_alone(context: Any) -> Iterator[None]:
        with one_at_a_time, override(context):
            yield

    forward_context.override_forward_context = override_alone
    for name in ("_dummy_sampler_run", "_dummy_pooler_run"):
        setattr(GPUModelRunner, name, _alone(getattr(GPUModelRunner, name)))


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with one_at_a_time:
            return function(*args, **kwargs)

    return run


def _register_kernels_once() -> None:
    """Let the first engine alone put the CPU's kernels in the place of Triton's.

    Each further time goes over every name of every module, which keeps the GIL from the engines
    at work for a tenth of a second, and wraps the kernels once more.
    """
    from vllm.platforms import current_platform

    platform = type(current_platform)
    register = platform.register_triton_kernel_overrides

    def register_once(_cls: Any) -> None:
        platform.register_triton_kernel_overrides = classmethod(lambda _cls: None)
        register()

    platform.register_triton_kernel_overrides = classmethod(register_once)


class _TorchWithMappedZeros:
    """Stands for the module torch where vLLM allocates a KV cache.

    torch would write zeros to all of a CPU's cache before the first token. A mapping is zero of
    itself, and takes memory as it is used.
    """

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)

    def zeros(self, *size: Any, dtype: Any, device: Any) -> Any:
        """Return a tensor of zeros; a KV cache is one of so many bytes."""
        import torch

        if torch.device(device).type != "cpu" or dtype != torch.int8 or size == (0,):
            return torch.zeros(*size, dtype=dtype, device=device)
        return torch.frombuffer(map_zeros(size[0]), dtype=dtype)


def _map_kv_caches() -> None:
    from vllm.v1.worker import utils

    utils.torch = _TorchWithMappedZeros()


class _BriefGC:
    """Stands for the module gc in those of vLLM's modules that freeze and unfreeze the heap."""

    collect = staticmethod(gc.collect)

    @staticmethod
    def freeze() -> None:
        """Do nothing: an engine's objects must be collectable when it is replaced."""

    unfreeze = freeze


def _keep_collections_short() -> None:
    """Freeze what importing vLLM has made, once: some 650,000 objects.

    vLLM collects garbage whenever an engine is built or shut down. Going over all objects each
    time would halt the other engines of this process for half a second.
    """
    from vllm.distributed import parallel_state
    from vllm.utils import gc_utils
    from vllm.v1.engine import core
    from vllm.v1.worker import gpu_model_runner, gpu_worker

    for module in (core, gc_utils, gpu_model_runner, gpu_worker, parallel_state):
        module.gc = _BriefGC
    gc.freeze()
