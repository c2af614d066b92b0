"""Whether each model of the registry fits this machine, told from its files alone."""

from __future__ import annotations

from collections.abc import Sequence

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
from sage.common.components.sage_vllm.errors import EngineError, WrongModelTypeError
from sage.common.components.sage_vllm.planning.device import Device
from sage.common.components.sage_vllm.planning.engine_plan import plan_engine
from sage.common.model_registry.vllm_registry import ModelInfo, list_models
from sage.tools.cli.doctor.finding import Finding, Status
from sage.tools.cli.machine.engine_device import engine_device
from sage.tools.cli.run.estimate import context_of, way_out

SECONDS = 60.0
"""Reading configurations begins with importing transformers."""


def check_models() -> Sequence[Finding]:
    """Say what an engine of each model would have, started without options."""
    device = engine_device()
    return [_look_at(model, device) for model in list_models()]


def _look_at(model: ModelInfo, device: Device) -> Finding:
    name, role = model.model_id, Role.of_tags(model.tags)
    spec = EngineSpec(model_id=name, path=model.path, role=role)
    try:
        plan = plan_engine(spec, device)
    except (EngineError, WrongModelTypeError) as error:
        fix = error.hint or "Use another model."
        return Finding(name="Model", status=Status.WARNING, detail=error.problem, fix=fix)
    if plan.fit.problem is None:
        return Finding(name="Model", detail=f"{name} fits, with {context_of(plan.estimate)}")
    detail, fix = f"{name} does not fit now: {plan.fit.problem}", way_out(plan) or ""
    return Finding(name="Model", status=Status.WARNING, detail=detail, fix=fix)
