"""LocalEnvironment: pipelines and services in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.kernel.api.environment import Environment
from sage.kernel.api.environment_config import environment_config


class LocalEnvironment(Environment):
    """Holds services and a pipeline, and runs them once, in this process.

    Register services, describe streams from a source, then ``submit()``.

    Args:
        name: the pipeline's name in logs, errors and metrics.
        config: ``channel_capacity``, records that may wait between two threads (1024), and
            ``close_timeout``, seconds that ``close()`` gives the operators to return (10).
    """

    def __init__(self, name: str = "sage", config: Mapping[str, Any] | None = None) -> None:
        super().__init__(name, environment_config(config or {}))
