"""environment_config(): what an environment can be told beside its name."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from sage.common.core.errors import nearest

_DEFAULTS: dict[str, int | float] = {
    "channel_capacity": 1024,  # records that wait between two threads
    "close_timeout": 10.0,  # seconds that close() gives the operators to return
}


def environment_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with all its values; an unknown key or a bad value is a ValueError."""
    for key in given:
        if key not in _DEFAULTS:
            raise ValueError(f"unknown configuration {key!r}; {nearest(key, list(_DEFAULTS))}")
    config = {**_DEFAULTS, **given}
    capacity = config["channel_capacity"]
    if not isinstance(capacity, int) or capacity < 1:
        raise ValueError(f"channel_capacity must be a whole number from 1 on, not {capacity!r}")
    timeout = config["close_timeout"]
    if not isinstance(timeout, int | float) or not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"close_timeout must be a number of seconds from 0 on, not {timeout!r}")
    return config
