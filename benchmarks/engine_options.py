"""The engine options that the service chooses for a model on this machine's CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
from sage.common.components.sage_vllm.planning.device import this_cpu
from sage.common.components.sage_vllm.planning.engine_plan import plan_engine


def engine_options(model: Path, role: Role = Role.GENERATE) -> dict[str, Any]:
    """Return the options, so that other ways of running the model get the same ones."""
    spec = EngineSpec(model_id="bench/model", path=model, role=role)
    return dict(plan_engine(spec, this_cpu()).spec.arguments)
