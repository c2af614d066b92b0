"""CacheSettings: where answers are kept, how many of them, and for how long."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.core.byte_size import byte_size
from sage.common.core.errors import nearest
from sage.common.core.local_path import NotALocalPathError, local_path


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """The settings of a cache.

    - ``folder``: where it lies; it is made if there is none.
    - ``max_bytes``: what the answers in it may take; those go first that were not used for the
      longest time. None is no limit.
    - ``ttl``: seconds after which an answer is generated anew; None is never.
    """

    folder: Path
    max_bytes: int | None = None
    ttl: float | None = None

    @classmethod
    def of(cls, given: object, where: str = "cache") -> CacheSettings:
        """Read a folder, or a mapping with these keys; raises InvalidOptionError."""
        options: Mapping[Any, Any] = given if isinstance(given, Mapping) else {"folder": given}
        known = [each.name for each in fields(cls)]
        for key in options:
            if key not in known:
                hint = nearest(str(key), known)
                raise InvalidOptionError(where, given, f"unknown key {key!r} in {where}", hint=hint)
        if not isinstance(options.get("folder"), str | os.PathLike):
            problem = f"{where} must be a folder, or a dict with a folder, not {given!r}"
            hint = f"pass {where}='answers', or {where}={{'folder': 'answers', 'max_bytes': '1GB'}}"
            raise InvalidOptionError(where, given, problem, hint=hint)
        try:
            folder = local_path(options["folder"]).absolute()
        except NotALocalPathError as error:
            raise InvalidOptionError(where, given, error.problem, hint=error.hint) from None
        return cls(
            folder=folder,
            max_bytes=_max_bytes(options.get("max_bytes"), where),
            ttl=_ttl(options.get("ttl"), where),
        )


def _max_bytes(given: object, where: str) -> int | None:
    if given is None:
        return None
    size = byte_size(given) if isinstance(given, str) else given
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    problem = f"{where}.max_bytes must be bytes above 0, or a text such as '1GB', not {given!r}"
    raise InvalidOptionError(f"{where}.max_bytes", given, problem)


def _ttl(given: object, where: str) -> float | None:
    if given is None:
        return None
    if isinstance(given, int | float) and not isinstance(given, bool) and given > 0:
        return float(given)
    problem = f"{where}.ttl must be seconds above 0, not {given!r}"
    raise InvalidOptionError(f"{where}.ttl", given, problem)
