"""The kernel's public face."""

from __future__ import annotations

from sage.kernel.api.data_stream import DataStream
from sage.kernel.api.local_environment import LocalEnvironment

__all__ = ["DataStream", "LocalEnvironment"]
