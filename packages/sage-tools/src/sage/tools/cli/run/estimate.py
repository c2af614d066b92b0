"""Whether a model fits this machine, told from its files alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import typer

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.fit.cpu_defaults import cpu_defaults
from sage.common.components.sage_vllm.fit.memory_check import (
    DEFAULT_SHARE,
    InsufficientMemoryError,
    check_fits,
)
from sage.common.components.sage_vllm.fit.memory_estimate import MemoryEstimate, estimate_memory
from sage.common.components.sage_vllm.fit.model_files import read_config
from sage.common.components.sage_vllm.host.host_memory import host_memory
from sage.common.model_registry.vllm_registry import format_bytes, get_model
from sage.tools.cli.machine.machine_memory import Memory, machine_memory
from sage.tools.cli.machine.vllm_build import is_cpu_build
from sage.tools.cli.terminal.flags import hint_in_flags
from sage.tools.cli.terminal.output import write_json
from sage.tools.cli.terminal.wrapping import write_fields


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Prints what an engine needs and what there is."""

    as_json: bool

    def run(self, config: VLLMServiceConfig) -> None:
        """Print it; raises Exit with code 1 where the model does not fit."""
        memory = _memory()
        on_cpu = memory.device != "the GPU"
        spec = _spec(config, on_cpu=on_cpu)
        estimate = estimate_memory(spec, "cpu" if on_cpu else "gpu")
        share = None if on_cpu else spec.arguments.get("gpu_memory_utilization") or DEFAULT_SHARE
        verdict = _verdict(estimate, memory, share)
        if self.as_json:
            write_json({**asdict(verdict), **_numbers(estimate, memory)})
        else:
            _write(estimate, memory, verdict)
        if not verdict.fits:
            raise typer.Exit(1)


def _spec(config: VLLMServiceConfig, *, on_cpu: bool) -> EngineSpec:
    role: Literal["generate", "embed"]
    if config.model_id is not None:
        role, given = "generate", config.engine
        model_id, revision = config.model_id, config.revision
    else:
        role, given = "embed", config.embedding_engine
        model_id, revision = str(config.embedding_model_id), config.embedding_revision
    path = get_model(model_id, revision).path
    read_config(model_id, path)  # which all that follows is made from
    arguments = {**(cpu_defaults(path, given) if on_cpu else {}), **given}
    return EngineSpec(model_id=model_id, path=path, role=role, arguments=arguments)


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    fits: bool
    reason: str | None


def _verdict(estimate: MemoryEstimate, memory: Memory, share: float | None) -> _Verdict:
    try:
        check_fits(estimate, free=memory.free, total=memory.total, share=share)
    except InsufficientMemoryError as error:
        return _Verdict(fits=False, reason=f"{error.reason}; {hint_in_flags(error)}")
    return _Verdict(fits=True, reason=None)


def _numbers(estimate: MemoryEstimate, memory: Memory) -> dict[str, Any]:
    return {
        **asdict(estimate),
        "kv_bytes": estimate.kv_bytes,
        "total_bytes": estimate.total_bytes,
        "device": memory.device,
        "device_bytes": memory.total,
        "device_free_bytes": memory.free,
    }


def _write(estimate: MemoryEstimate, memory: Memory, verdict: _Verdict) -> None:
    free = f"{format_bytes(memory.free)} free of {format_bytes(memory.total)}"
    fields = (
        ("Model", estimate.model_id),
        ("Weights", f"{format_bytes(estimate.weight_bytes)} in {estimate.dtype}"),
        ("KV cache", _cache(estimate)),
        ("Overhead", f"{format_bytes(estimate.overhead_bytes)} for the engine itself"),
        ("At least", f"{format_bytes(estimate.total_bytes)} in all"),
        ("Device", f"{memory.device}, {free}"),
        ("Verdict", "fits" if verdict.fits else f"does not fit: {verdict.reason}"),
    )
    write_fields(fields, column=10)


def _cache(estimate: MemoryEstimate) -> str:
    if estimate.kv_bytes is None or estimate.max_model_len is None:
        return "unknown"
    needed = f"{format_bytes(estimate.kv_bytes)} for {estimate.max_model_len:,} tokens"
    if not estimate.kv_cache_bytes:
        return needed
    return f"{needed}; up to {format_bytes(estimate.kv_cache_bytes)} for a full batch"


def _memory() -> Memory:
    """The GPU's memory, unless the vLLM that is installed runs on the CPU alone."""
    if not is_cpu_build():
        return machine_memory()
    memory = host_memory()
    return Memory(device="this machine", total=memory.total, free=memory.available)
