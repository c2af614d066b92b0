"""What is changed in vLLM so that several of its engines live in one process.

vLLM takes an inline engine for the only one there is: its kernels, its garbage collections, its
teardown. Each change says what would happen without it. They are made when an inline engine is
built, once, in the modules and classes of vLLM that the builders hand over. Architecture decision
12 lists them, with the test that fails when vLLM changes under one of them.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, ClassVar, Protocol

from sage.common.components.sage_vllm.host.mapped_memory import map_zeros

one_at_a_time = threading.RLock()
"""Held where inline engines compute."""


class ParallelState(Protocol):
    """vLLM's module ``distributed.parallel_state``."""

    destroy_model_parallel: Callable[[], None]
    destroy_distributed_environment: Callable[[], None]


class Worker(Protocol):
    """vLLM's module ``v1.worker.gpu_worker``, whose function the CPU's worker calls too."""

    ensure_model_parallel_initialized: Callable[..., None]


class LoraOperations(Protocol):
    """vLLM's modules ``lora.ops.torch_ops.lora_ops`` and ``lora.punica_wrapper.punica_cpu``."""

    bgmv_shrink: Callable[..., None]


class ForwardContexts(Protocol):
    """vLLM's module ``forward_context``."""

    override_forward_context: Callable[[Any], AbstractContextManager[None]]


class ModelRegistry(Protocol):
    """vLLM's module ``model_executor.models.registry``."""

    _run_in_subprocess: Callable[[Callable[[], Any]], Any]


class Platform(Protocol):
    """vLLM's class of the platform that it runs on."""

    register_triton_kernel_overrides: ClassVar[Any]  # a classmethod: it is replaced by another one


class ModuleWithTorch(Protocol):
    """A module of vLLM that imports torch: ``v1.worker.utils``, where KV caches are allocated."""

    torch: Any


class ModuleWithGC(Protocol):
    """A module of vLLM that imports gc."""

    gc: Any


@contextmanager
def process_groups_kept(parallel_state: ParallelState) -> Iterator[None]:
    """Keep vLLM from destroying torch's process groups, which other inline engines still need.

    An EngineCore that shuts down always destroys them, by these functions of this module of vLLM.
    """
    names = ("destroy_model_parallel", "destroy_distributed_environment")
    originals = {name: getattr(parallel_state, name) for name in names}
    for name in names:
        setattr(parallel_state, name, lambda: None)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(parallel_state, name, original)


def add_group_of_experts(gpu_worker: Worker, parallel_state: Any) -> None:
    """Have the process group that a mixture of experts needs beside a model that needs none.

    vLLM makes it with the other groups, which are there already where another engine is.
    """
    from vllm.config import get_current_vllm_config

    ensure = gpu_worker.ensure_model_parallel_initialized

    def ensure_with_experts(*args: Any, **kwargs: Any) -> None:
        ensure(*args, **kwargs)
        model = get_current_vllm_config().model_config
        if parallel_state._EP is None and model is not None and model.is_moe:  # noqa: SLF001
            world = parallel_state.get_world_group()
            backend = parallel_state.torch.distributed.get_backend(world.device_group)
            parallel_state._EP = parallel_state.init_model_parallel_group(  # noqa: SLF001
                [world.ranks], world.local_rank, backend, group_name="ep"
            )

    gpu_worker.ensure_model_parallel_initialized = ensure_with_experts


def mend_adapters_on_the_cpu(lora_ops: LoraOperations, punica_cpu: Any) -> None:
    """Mend what vLLM does wrong with LoRA adapters on the CPU."""
    keep_adapters_off_plain_requests(lora_ops, punica_cpu)
    let_prompts_be_scored_with_adapters(punica_cpu.PunicaWrapperCPU)


def keep_adapters_off_plain_requests(lora_ops: LoraOperations, punica_cpu: LoraOperations) -> None:
    """Mend vLLM's LoRA on the CPU, which adapts requests that name no adapter too.

    Beside a request with an adapter, theirs is numbered -1, and that picks the last adapter that
    is loaded.
    """
    shrink = lora_ops.bgmv_shrink
    if shrink.__module__ == __name__:
        return

    def shrink_adapted(
        inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0
    ) -> None:
        shrink(inputs, weights, output, indices, scaling)
        output[indices < 0] = 0

    lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = shrink_adapted


def let_prompts_be_scored_with_adapters(wrapper: type[Any]) -> None:
    """Have log-probabilities of a prompt read with an adapter, by vLLM's ``PunicaWrapperCPU``.

    It adapts the scores of the tokens that are sampled next, one for each request, and takes those
    of a whole prompt for these. An adapter that leaves the last matrix alone changes no scores; for
    one that changes it vLLM does not know here whose the prompt is.
    """
    add: Callable[..., None] = wrapper.add_lora_logits
    if add.__module__ == __name__:
        return

    def add_to_sampled(
        self: Any, scores: Any, states: Any, first: Any, second: Any, scale: float, **options: Any
    ) -> None:
        if states.view(-1, states.shape[-1]).shape[0] == len(self.sampler_indices):
            add(self, scores, states, first, second, scale, **options)
        elif bool(first.any()):
            raise NotImplementedError("log-probabilities of a prompt by an adapter of lm_head")

    wrapper.add_lora_logits = add_to_sampled


def make_forward_passes_one_at_a_time(
    forward_context: ForwardContexts, model_runner: type[Any]
) -> None:
    """Keep a model's first passes, in the build of an inline engine, out of others' steps.

    vLLM keeps the context of a forward pass in a global of a module, and its kernels for the CPU
    keep their scratch memory in one too: two threads at once would read each other's.
    """
    override = forward_context.override_forward_context

    @contextmanager
    def override_alone(context: Any) -> Iterator[None]:
        with one_at_a_time, override(context):
            yield

    forward_context.override_forward_context = override_alone
    for name in ("_dummy_sampler_run", "_dummy_pooler_run"):
        setattr(model_runner, name, _alone(getattr(model_runner, name)))


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with one_at_a_time:
            return function(*args, **kwargs)

    return run


def register_kernels_once(platform: type[Platform]) -> None:
    """Let the first engine alone put the CPU's kernels in the place of Triton's.

    Each further time goes over every name of every module, which keeps the GIL from the engines
    at work for a tenth of a second, and wraps the kernels once more.
    """
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

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def zeros(self, *size: Any, dtype: Any, device: Any) -> Any:
        """Return a tensor of zeros; a KV cache is one of so many bytes."""
        torch = self._torch
        if torch.device(device).type != "cpu" or dtype != torch.int8 or size == (0,):
            return torch.zeros(*size, dtype=dtype, device=device)
        return torch.frombuffer(map_zeros(size[0]), dtype=dtype)


def look_at_models_here(registry: ModelRegistry) -> None:
    """Have what a model's class can do looked up in this process.

    vLLM starts another one for that, which imports vLLM anew, lest looking initialise CUDA. That
    takes seconds for each class that it has no notes on: at a first start, and at every start where
    it can keep none at home.
    """
    registry._run_in_subprocess = lambda look: look()  # noqa: SLF001 - it has no setting


def map_kv_caches(worker_utils: ModuleWithTorch) -> None:
    """Map the KV caches that are allocated in vLLM's module of this name."""
    worker_utils.torch = _TorchWithMappedZeros(worker_utils.torch)


class _BriefGC:
    """Stands for the module gc in those of vLLM's modules that freeze and unfreeze the heap."""

    collect = staticmethod(gc.collect)

    @staticmethod
    def freeze() -> None:
        """Do nothing: an engine's objects must be collectable when it is replaced."""

    unfreeze = freeze


def keep_collections_short(*modules: ModuleWithGC) -> None:
    """Freeze what an engine in this process has imported, once: vLLM's is a million objects.

    These modules of vLLM collect garbage whenever an engine is built or shut down. Going over all
    objects each time would halt the other engines of this process for half a second.
    """
    for module in modules:
        module.gc = _BriefGC
    gc.freeze()
