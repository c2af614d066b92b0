"""environment_config(): what an environment can be told beside its name."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from sage.common.core.errors import nearest

_DEFAULTS: dict[str, Any] = {
    "channel_capacity": 1024,  # records that wait between two threads
    "close_timeout": 10.0,  # seconds that close() gives the operators to return
}


def environment_config(
    given: Mapping[str, Any], more_defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a configuration with all its values; an unknown key or a bad value is a ValueError.

    Args:
        given: what the user gave.
        more_defaults: the keys, with their values, of one kind of environment alone; these values
            are not checked.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"config takes a mapping of names to values, not {given!r}")
    defaults = {**_DEFAULTS, **(more_defaults or {})}
    for key in given:
        if key not in defaults:
            raise ValueError(f"unknown configuration {key!r}; {nearest(key, list(defaults))}")
    config = {**defaults, **given}
    capacity = config["channel_capacity"]
    if not isinstance(capacity, int) or capacity < 1:
        raise ValueError(f"channel_capacity must be a whole number from 1 on, not {capacity!r}")
    timeout = config["close_timeout"]
    if not isinstance(timeout, int | float) or not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"close_timeout must be a number of seconds from 0 on, not {timeout!r}")
    return config
