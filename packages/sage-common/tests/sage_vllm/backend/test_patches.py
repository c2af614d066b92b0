"""Each change that is made to vLLM: its fault is still there, and the change still mends it.

A test here fails by itself when vLLM changes what is changed in it. One that finds no fault any
more says that its change can go. Where that can be, they work on copies of vLLM's modules, which
nobody has changed.
"""

from __future__ import annotations

import gc
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import prometheus_client
import pytest
import torch

from sage.common.components.sage_vllm.backend import cpu_kernels, inline_patches, vllm_plugin
from sage.common.components.sage_vllm.backend.scheduler_load import LoadRecorder
from sage.common.components.sage_vllm.host.lifeline import HOST_VARIABLE
from sage.common.components.sage_vllm.host.mapped_memory import promised_bytes, take_first_blocks
from sage.common.components.sage_vllm.service import VLLMService

LAYER = "layer"


def copy_of(name: str) -> ModuleType:
    """Return a copy of a module of vLLM, as it was before any change."""
    spec = find_spec(f"vllm.{name}")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- process_groups_kept ---------------------------------------------------------------------------


@pytest.fixture
def process_group() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("kept", [False, True])
def test_an_engine_that_ends_destroys_the_process_groups_of_all(kept: bool) -> None:  # noqa: FBT001
    from vllm.distributed import parallel_state

    with inline_patches.process_groups_kept(parallel_state) if kept else nullcontext():
        parallel_state.cleanup_dist_env_and_memory()
    assert torch.distributed.is_initialized() == kept


def test_an_engine_core_cleans_up_by_this_function() -> None:
    from vllm.distributed import parallel_state
    from vllm.v1.engine import core

    assert core.cleanup_dist_env_and_memory is parallel_state.cleanup_dist_env_and_memory
    assert "cleanup_dist_env_and_memory()" in inspect.getsource(core.EngineCore.shutdown)


# -- keep_adapters_off_plain_requests --------------------------------------------------------------


@pytest.mark.parametrize("mended", [False, True])
def test_the_last_adapter_is_applied_to_requests_without_one(mended: bool) -> None:  # noqa: FBT001
    lora_ops: Any = copy_of("lora.ops.torch_ops.lora_ops")
    punica_cpu: Any = copy_of("lora.punica_wrapper.punica_cpu")
    if mended:
        inline_patches.keep_adapters_off_plain_requests(lora_ops, punica_cpu)
        inline_patches.keep_adapters_off_plain_requests(lora_ops, punica_cpu)  # nothing more
        assert punica_cpu.bgmv_shrink is lora_ops.bgmv_shrink
    inputs, weights = torch.ones(2, 4), torch.ones(3, 2, 4)
    output = torch.zeros(2, 2)
    lora_ops.bgmv_shrink(inputs, weights, output, torch.tensor([-1, 1]), 0.5)
    assert output[1].tolist() == [2, 2]
    assert output[0].tolist() == ([0, 0] if mended else [2, 2])
    prompt = torch.zeros(2, 2)
    lora_ops.sgmv_shrink(
        inputs, weights, prompt, None, torch.tensor([1, 1]), torch.tensor([-1, 1]), 2, 1, 2, 0.5
    )
    assert torch.equal(prompt, output)


# -- let_prompts_be_scored_with_adapters -----------------------------------------------------------


def test_scores_of_a_prompt_are_no_more_than_those_of_sampled_tokens() -> None:
    punica_cpu: Any = copy_of("lora.punica_wrapper.punica_cpu")
    wrapper = punica_cpu.PunicaWrapperCPU
    asked = SimpleNamespace(sampler_indices=torch.tensor([0]))
    scores, states = torch.ones(3, 5), torch.ones(3, 4)
    unused, used = torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4)
    second = torch.ones(1, 1, 5, 2)
    inline_patches.let_prompts_be_scored_with_adapters(wrapper)
    inline_patches.let_prompts_be_scored_with_adapters(wrapper)  # nothing more
    wrapper.add_lora_logits(asked, scores, states, unused, second, 1.0)
    assert torch.equal(scores, torch.ones(3, 5))
    with pytest.raises(NotImplementedError, match="an adapter of lm_head"):
        wrapper.add_lora_logits(asked, scores, states, used, second, 1.0)
    wrapper.add_lora_logits(asked, scores[:1], states[:1], used, second, 1.0)
    assert scores.tolist() == [[9.0] * 5, [1.0] * 5, [1.0] * 5]


# -- rotate_separate_heads -------------------------------------------------------------------------


def _rows(tokens: int, heads: int) -> torch.Tensor:
    return torch.randn(tokens, heads * 64 + 8)[:, :-8]  # as what is split off a wider product


def _heads(tokens: int, heads: int) -> torch.Tensor:
    return torch.randn(tokens, heads, 64)


def _parts(tokens: int, heads: int) -> torch.Tensor:
    return torch.randn(tokens, heads, 96)[..., 32:]  # of heads that are rotated in part


@pytest.fixture
def rotary_embedding() -> Iterator[type[Any]]:
    """vLLM's class, as it was before any change."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    class Unchanged(RotaryEmbedding):
        forward_cpu = inspect.unwrap(RotaryEmbedding.forward_cpu)

    with set_current_vllm_config(VllmConfig()):
        yield Unchanged


def _rotated(rotary_embedding: type[Any], makers: Any, *, neox: bool) -> list[bool]:
    """Return whether query and key come out as vLLM's own computation in torch has them."""
    rotary = rotary_embedding(64, 64, 256, 10_000.0, neox, torch.float32)
    positions = torch.tensor([5, 6, 7, 0, 1])

    def inputs() -> list[torch.Tensor]:  # anew each time: they are rotated in place
        torch.manual_seed(0)
        return [makers[0](5, 4), makers[1](5, 2)]

    expected = rotary.forward_native(positions, *inputs())
    found = rotary.forward_cpu(positions, *inputs())
    alone, nothing = rotary.forward_cpu(positions, inputs()[0], None)
    assert nothing is None
    assert torch.equal(alone, found[0])
    assert [one.shape for one in found] == [one.shape for one in inputs()]
    return [torch.allclose(*pair, atol=1e-5) for pair in zip(found, expected, strict=True)]


@pytest.mark.parametrize("neox", [False, True])
@pytest.mark.parametrize("makers", [(_heads, _heads), (_parts, _parts), (_rows, _heads)])
def test_separate_heads_are_rotated_by_the_angles_of_other_tokens(
    rotary_embedding: type[Any],
    makers: Any,
    neox: bool,  # noqa: FBT001
) -> None:
    assert _rotated(rotary_embedding, (_rows, _rows), neox=neox) == [True, True]
    assert _rotated(rotary_embedding, makers, neox=neox) == [makers[0] is _rows, False]
    cpu_kernels.rotate_separate_heads(rotary_embedding)
    mended = rotary_embedding.forward_cpu
    cpu_kernels.rotate_separate_heads(rotary_embedding)  # nothing more
    assert rotary_embedding.forward_cpu is mended
    assert _rotated(rotary_embedding, (_rows, _rows), neox=neox) == [True, True]
    assert _rotated(rotary_embedding, makers, neox=neox) == [True, True]


@pytest.mark.parametrize("ours", [False, True])
def test_only_processes_that_sage_has_started_are_changed(
    ours: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    monkeypatch.setattr(
        RotaryEmbedding, "forward_cpu", unchanged := inspect.unwrap(RotaryEmbedding.forward_cpu)
    )
    monkeypatch.delenv(HOST_VARIABLE, raising=False)
    if ours:
        monkeypatch.setenv(HOST_VARIABLE, str(os.getpid()))
    vllm_plugin.prepare_process()
    assert (RotaryEmbedding.forward_cpu is not unchanged) == ours


# -- make_forward_passes_one_at_a_time -------------------------------------------------------------


class ModelRunner:
    """Its first passes, without a model."""

    def _dummy_sampler_run(self, work: Callable[[], None]) -> None:
        work()

    _dummy_pooler_run = _dummy_sampler_run


@pytest.mark.parametrize("alone", [False, True])
def test_two_forward_passes_at_once_share_their_context(alone: bool) -> None:  # noqa: FBT001
    contexts: Any = copy_of("forward_context")
    if alone:
        inline_patches.make_forward_passes_one_at_a_time(contexts, ModelRunner)
    is_in, go_on, seen = threading.Event(), threading.Event(), []

    def first() -> None:
        with contexts.override_forward_context("first"):
            is_in.set()
            go_on.wait(60)
            seen.append(contexts.get_forward_context())

    def second() -> None:
        with contexts.override_forward_context("second"):
            go_on.set()
            one.join(60)

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    assert is_in.wait(60)
    other.start()
    if alone:
        assert not go_on.wait(0.2)  # the second waits for the first
        go_on.set()
    one.join(60)
    other.join(60)
    assert seen == ["first" if alone else "second"]


def test_the_first_passes_of_a_sampler_and_a_pooler_are_what_they_were() -> None:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for name in ("_dummy_sampler_run", "_dummy_pooler_run"):
        assert callable(getattr(GPUModelRunner, name))
    used = inspect.getsource(inspect.getmodule(GPUModelRunner.profile_run))  # type: ignore[arg-type]
    assert "self._dummy_sampler_run(" in used
    assert "self._dummy_pooler_run(" in used


# -- register_kernels_once -------------------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True])
def test_each_engine_puts_the_kernels_in_place_again(
    once: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.triton_utils import dispatcher

    platform = copy_of("platforms.cpu").CpuPlatform
    registered: list[object] = []
    monkeypatch.setattr(dispatcher, "register_kernels", registered.append)
    if once:
        inline_patches.register_kernels_once(platform)
    platform.register_triton_kernel_overrides()
    platform.register_triton_kernel_overrides()
    assert len(registered) == (1 if once else 2)


# -- map_kv_caches, take_first_blocks --------------------------------------------------------------


class Tensors:
    """vLLM's description of a KV cache of 1,024 blocks in one layer, as far as it is read."""

    has_layer_views = False
    layers = (LAYER,)
    layer_names = (LAYER,)
    size = 64 << 20

    def __init__(self) -> None:
        self.kv_cache_spec = self
        self.kv_cache_tensors = self.kv_cache_groups = [self]


class Turns:
    """A context that counts how often it was entered."""

    count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("mapped", [False, True])
def test_a_kv_cache_is_written_before_it_is_used(mapped: bool) -> None:  # noqa: FBT001
    utils: Any = copy_of("v1.worker.utils")
    if mapped:
        inline_patches.map_kv_caches(utils)
    gc.collect()  # else caches of engines that have ended may go meanwhile
    before = promised_bytes()
    cache = utils.allocate_kv_cache(Tensors(), torch.device("cpu"), None)[LAYER]
    promised = promised_bytes() - before
    assert promised == (Tensors.size if mapped else 0)
    assert (cache.dtype, cache.nbytes) == (torch.int8, Tensors.size)
    turns = Turns()
    states = [torch.ones(2)]  # what a layer of another kind has
    take_first_blocks([cache.view(1024, -1), states], turns)
    assert turns.count == 4  # of 16 MiB: an engine that serves has its steps between them
    assert promised_bytes() == before
    assert not cache.any()


# -- look_at_models_here ---------------------------------------------------------------------------


@pytest.mark.parametrize("here", [False, True])
def test_looking_at_a_model_that_was_not_met_starts_a_process(
    here: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = copy_of("model_executor.models.registry")
    monkeypatch.setattr(registry, "_SUBPROCESS_COMMAND", ["false"])
    model = registry._LazyRegisteredModel("vllm.model_executor.models.llama", "LlamaForCausalLM")
    monkeypatch.setattr(type(model), "_load_modelinfo_from_cache", lambda *_: None)
    monkeypatch.setattr(type(model), "_save_modelinfo_to_cache", lambda *_: None)
    if here:
        inline_patches.look_at_models_here(registry)
        assert model.inspect_model_cls().is_text_generation_model
    else:
        with pytest.raises(RuntimeError, match="in subprocess"):
            model.inspect_model_cls()


# -- keep_collections_short ------------------------------------------------------------------------


@pytest.mark.parametrize("brief", [False, True])
def test_an_engine_freezes_all_objects_at_its_start(
    brief: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.distributed import parallel_state
    from vllm.utils import gc_utils
    from vllm.v1.engine import core
    from vllm.v1.worker import gpu_model_runner, gpu_worker

    modules: list[Any] = [gc_utils, core, gpu_model_runner, gpu_worker, parallel_state]
    for module in modules:
        assert module.gc in (gc, inline_patches._BriefGC)
        monkeypatch.setattr(module, "gc", gc)
    try:
        if brief:
            inline_patches.keep_collections_short(*modules)
        some = [[number] for number in range(1000)]
        gc_utils.freeze_gc_heap()
        collected = {id(each) for each in gc.get_objects()}  # which are all that are not frozen
        assert [id(each) in collected for each in some] == [brief] * len(some)
        gc.freeze()
        parallel_state.cleanup_dist_env_and_memory()
        assert (gc.get_freeze_count() > 0) == brief
    finally:
        gc.freeze()  # as it was, else all later tests would collect among a million objects


# -- LoadRecorder ----------------------------------------------------------------------------------


def test_an_engine_adds_nothing_to_the_metrics_of_its_process(model_root: Path) -> None:
    def of_vllm() -> list[str]:
        names = (metric.name for metric in prometheus_client.REGISTRY.collect())
        return [name for name in names if name.startswith("vllm")]

    before = of_vllm()
    config = {"model_id": "test/tiny-chat", "model_root": model_root, "engine_mode": "inline"}
    engine = {"kv_cache_memory_bytes": 64 << 20}
    with VLLMService({**config, "engine": engine}) as service:
        service.generate("Hello", max_tokens=4)
        assert service.stats()["batch_occupancy"] > 0  # from what the scheduler said
    assert of_vllm() == before


def test_the_recorder_takes_what_vllms_own_is_told() -> None:
    from vllm.v1.engine import llm_engine
    from vllm.v1.metrics.stats import PrefixCacheStats, SchedulerStats

    theirs = llm_engine.StatLoggerManager
    for name in ("record", "log", "log_engine_initialized"):
        assert callable(getattr(theirs, name))
        assert callable(getattr(LoadRecorder, name))
    assert "scheduler_stats" in inspect.signature(theirs.record).parameters
    stats = SchedulerStats(num_running_reqs=2, num_waiting_reqs=3, kv_cache_usage=0.5)
    stats.prefix_cache_stats = PrefixCacheStats(queries=8, hits=4)
    recorder = LoadRecorder()
    recorder.record(scheduler_stats=stats, iteration_stats=None, mm_cache_stats=None)
    assert (recorder.load.running, recorder.load.waiting) == (2, 3)
    assert (recorder.load.kv_cache_usage, recorder.load.prefix_cache_hit_rate) == (0.5, 0.5)


# -- tied_processes, the fork server ---------------------------------------------------------------


def test_vllm_starts_its_processes_as_it_did() -> None:
    from vllm.utils.ompmultiprocessing import OMPProcessManager
    from vllm.v1.engine import utils
    from vllm.v1.executor import multiproc_executor

    assert "context = get_mp_context()" in inspect.getsource(utils.CoreEngineProcManager)
    assert "get_mp_context()" in inspect.getsource(multiproc_executor.WorkerProc)
    parameters = inspect.signature(OMPProcessManager.configure_omp_envs).parameters
    assert {"rank", "local_rank"} <= set(parameters)
    source = inspect.getsource(OMPProcessManager)
    assert all(name in source for name in ("self.skip_setup", "self.cpu_lists"))
