"""Whether a model fits this machine, told from its files alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import typer

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
from sage.common.components.sage_vllm.planning.engine_plan import EnginePlan, plan_engine
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.planning.memory_estimate import MemoryEstimate
from sage.common.model_registry.vllm_registry import format_bytes, get_model
from sage.tools.cli.machine.engine_device import engine_device
from sage.tools.cli.terminal.flags import hint_in_flags
from sage.tools.cli.terminal.output import write_json
from sage.tools.cli.terminal.wrapping import write_fields

_DEVICES = {"cpu": "this machine", "gpu": "the GPU"}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Prints what an engine needs and what there is."""

    as_json: bool

    def run(self, config: VLLMServiceConfig) -> None:
        """Print it; raises Exit with code 1 where the model does not fit."""
        plan = plan_engine(_spec(config), engine_device())
        if self.as_json:
            write_json(_numbers(plan))
        else:
            _write(plan)
        if plan.fit.problem is not None:
            raise typer.Exit(1)


def _spec(config: VLLMServiceConfig) -> EngineSpec:
    settings = next(iter(config.entries().values()))
    path = get_model(settings.model_id, settings.revision).path
    role = settings.role or Role.GENERATE
    return EngineSpec(model_id=settings.model_id, path=path, role=role, arguments=settings.engine)


def way_out(plan: EnginePlan) -> str | None:
    """Say what to do where an engine does not fit, in the words of the command line."""
    return hint_in_flags(InsufficientMemoryError(plan.spec.model_id, plan.fit, plan.estimate))


def _numbers(plan: EnginePlan) -> dict[str, Any]:
    estimate = plan.estimate
    return {
        "fits": plan.fit.problem is None,
        "reason": _reason(plan),
        **asdict(estimate),
        "kv_bytes": estimate.kv_bytes,
        "total_bytes": estimate.total_bytes,
        "device": _DEVICES[plan.device.kind],
        "device_bytes": plan.device.total,
        "device_free_bytes": plan.device.free,
    }


def _reason(plan: EnginePlan) -> str | None:
    return None if plan.fit.problem is None else f"{plan.fit.problem}; {way_out(plan)}"


def _write(plan: EnginePlan) -> None:
    estimate, device = plan.estimate, plan.device
    free = f"{format_bytes(device.free or 0)} free of {format_bytes(device.total or 0)}"
    problem = _reason(plan)
    fields = (
        ("Model", estimate.model_id),
        ("Context", context_of(estimate)),
        ("Weights", f"{format_bytes(estimate.weight_bytes)} in {estimate.dtype}"),
        ("KV cache", _cache(estimate)),
        ("Overhead", f"{format_bytes(estimate.overhead_bytes)} for the engine itself"),
        ("At least", f"{format_bytes(estimate.total_bytes)} in all"),
        ("Device", f"{_DEVICES[device.kind]}, {free}"),
        ("Verdict", "fits" if problem is None else f"does not fit: {problem}"),
    )
    write_fields(fields, column=10)


def context_of(estimate: MemoryEstimate) -> str:
    """How long sequences may be, of how many tokens the model has."""
    used, longest = estimate.max_model_len, estimate.model_max_len
    if used is None:
        return "what fits" if longest is None else f"what fits, up to {longest:,} tokens"
    if longest is None or used == longest:
        return f"{used:,} tokens"
    return f"{used:,} tokens of the model's {longest:,}"


def _cache(estimate: MemoryEstimate) -> str:
    if estimate.kv_bytes is None:
        return "unknown"
    if estimate.kv_bytes == 0:
        return "none, as it reads a text all at once"
    needed = f"{format_bytes(estimate.kv_bytes)} for one longest sequence"
    if not estimate.kv_cache_bytes:
        return needed
    return f"{needed}; {format_bytes(estimate.kv_cache_bytes)} in all"
