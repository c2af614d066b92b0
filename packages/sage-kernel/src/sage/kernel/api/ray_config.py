"""ray_config(): what a RayEnvironment can be told beside its name, and each service on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.common.core.errors import nearest
from sage.common.service import Replication
from sage.kernel.api.environment_config import environment_config
from sage.kernel.runtime.cluster.cluster import Need
from sage.kernel.runtime.cluster.errors import FROM_OUTSIDE
from sage.kernel.runtime.cluster.replicas.replicated_service import ReplicaSettings
from sage.kernel.runtime.cluster.replicas.supervision import Supervision

_DEFAULTS: dict[str, Any] = {
    "address": None,
    "services": {},
    "workers": {},
    "grows": False,
    "runtime_env": None,
    "ray_init": {},
}
_OF_A_SERVICE = (
    "replicas", "gpus", "cpus", "resources", "max_in_flight", "health_timeout", "steps_timeout",
)  # fmt: skip
_LIMITS = ("health_timeout", "steps_timeout")
_OF_WORKERS = ("gpus", "cpus", "resources", "health_timeout")
_NUMBER = "a number above 0"
_TAKES = {
    "max_in_flight": "a whole number above 0",
    "gpus": "a number that is whole or below 1",
    "cpus": "a number from 0 on",
}
_BY_KEY = {"CPU": "cpus", "GPU": "gpus"}  # what has a key of its own


def ray_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with all its values; an unknown key or a bad value is a ValueError."""
    config = environment_config(given, _DEFAULTS)
    address = config["address"]
    if address is not None and (not isinstance(address, str) or not address or "://" in address):
        raise ValueError(
            f"address takes 'auto', 'local', 'host:port' or None, not {address!r}; {FROM_OUTSIDE}"
        )
    for key in ("services", "workers", "ray_init"):
        if not isinstance(config[key], Mapping):
            raise ValueError(f"{key} takes a mapping, not {config[key]!r}")
    if not isinstance(config["runtime_env"], Mapping | None):
        raise ValueError(f"runtime_env takes a mapping or None, not {config['runtime_env']!r}")
    if named := {"address", "runtime_env"} & set(config["ray_init"]):
        raise ValueError(f"{min(named)!r} has a key of its own, beside 'ray_init', not in it")
    if not isinstance(config["grows"], bool):
        raise ValueError(f"grows takes True or False, not {config['grows']!r}")
    for name, settings in config["services"].items():
        _check(f"services[{name!r}]", settings, _OF_A_SERVICE)
    _check("workers", config["workers"], _OF_WORKERS)
    return config


def keeps_here(settings: Mapping[str, Any]) -> bool:
    """Whether a service is to stay in the process that has the pipeline."""
    return settings.get("replicas") == 0


def replica_settings(name: str, config: Mapping[str, Any], said: Replication) -> ReplicaSettings:
    """Return what the configuration says of one service as ReplicaSettings."""
    settings = config["services"].get(name, {})
    replicas = settings.get("replicas", "all" if said.gpus else 1)
    least, most = (1, None) if replicas == "all" else _least_and_most(replicas)
    return ReplicaSettings(
        least=least,
        most=most,
        gpus=settings.get("gpus"),
        cpus=settings.get("cpus"),
        resources=settings.get("resources", {}),
        most_in_flight=settings.get("max_in_flight"),
        supervision=_supervision(config, settings),
    )


def worker_settings(config: Mapping[str, Any]) -> tuple[Need, Supervision]:
    """Return what the configuration says of workers: what each takes, and when it is replaced."""
    settings = config["workers"]
    need = {key: settings[key] for key in settings if key not in _LIMITS}
    return Need(**need), _supervision(config, settings)


def _supervision(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Supervision:
    limits = {key: settings[key] for key in _LIMITS if settings.get(key) is not None}
    return Supervision(close_timeout=config["close_timeout"], **limits)


def _check(where: str, settings: object, known: tuple[str, ...]) -> None:
    if not isinstance(settings, Mapping):
        raise ValueError(f"{where} takes a mapping such as {{'replicas': 4}}, not {settings!r}")
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"unknown key {key!r} in {where}; {nearest(str(key), list(known))}")
        if key == "replicas":
            if value not in (0, "all"):
                _least_and_most(value, where)
        elif key == "resources":
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}['resources'] takes a mapping, not {value!r}")
            for name, amount in value.items():
                _check_resource(f"{where}['resources'][{name!r}]", name, amount)
        elif value is not None and not _is_amount(value, key):
            raise ValueError(f"{where}[{key!r}] takes {_TAKES.get(key, _NUMBER)}, not {value!r}")


def _check_resource(where: str, name: object, amount: object) -> None:
    if name in _BY_KEY:
        raise ValueError(f"{where} is asked for by {_BY_KEY[name]!r}, beside 'resources'")
    if not isinstance(name, str) or not _is_amount(amount, name):
        raise ValueError(f"{where} takes {_NUMBER}, not {amount!r}")


def _is_amount(value: object, key: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if key == "max_in_flight":
        return isinstance(value, int) and value >= 1
    if key == "gpus":  # parts of several are not to be had
        return 0 <= value < 1 or (value >= 1 and value % 1 == 0)
    return value >= 0 if key == "cpus" else value > 0


def _least_and_most(replicas: Any, where: str = "") -> tuple[int, int]:
    pair = (replicas, replicas) if isinstance(replicas, int) else replicas
    match pair:
        case (int(least), int(most)) if 1 <= least <= most and not isinstance(replicas, bool):
            return least, most
    raise ValueError(
        f"{where}['replicas'] takes a number from 1 on, (least, most), 'all', or 0 to keep the "
        f"service in this process, not {replicas!r}"
    )
