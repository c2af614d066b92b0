"""MediaPolicy: which pictures a service reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sage.common.components.sage_vllm.errors import InvalidInputError, InvalidOptionError

DEFAULT_MAX_PIXELS = 64_000_000
"""Decoded, that is 192 MB; the cameras of today's telephones take up to 50 million."""


@dataclass(frozen=True, kw_only=True)
class MediaPolicy:
    """Which pictures may be read; what is not named here is refused.

    - ``roots``: folders below which ``file:`` addresses may lie; where there are any, paths too.
    - ``hosts``: hosts that http and https addresses may name, redirections included.
    - ``max_pixels``: of a picture, read from its header before it is decoded.
    """

    roots: tuple[Path, ...] = ()
    hosts: frozenset[str] = frozenset()
    max_pixels: int = DEFAULT_MAX_PIXELS

    @classmethod
    def of(cls, roots: object, hosts: object, max_pixels: object) -> Self:
        """Make a policy of what a configuration says; raises InvalidOptionError."""
        for name, value in (("media_roots", roots), ("allow_media_hosts", hosts)):
            if not isinstance(value, Sequence) or isinstance(value, str | bytes):
                what = "folders" if name == "media_roots" else "hosts such as 'images.example.org'"
                problem = f"{name} must be a list of {what}, not {value!r}"
                hint = f"pass {name}=[{value!r}]" if isinstance(value, str) else None
                raise InvalidOptionError(name, value, problem, hint=hint)
        if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
            problem = f"max_pixels must be a whole number, 1 or more, not {max_pixels!r}"
            raise InvalidOptionError("max_pixels", max_pixels, problem)
        for host in hosts:  # type: ignore[attr-defined]  # a sequence, by the check above
            if not isinstance(host, str) or not host or set("/:@") & set(host):
                problem = f"{host!r} in allow_media_hosts is no host"
                hint = "name it alone: 'images.example.org'"
                raise InvalidOptionError("allow_media_hosts", host, problem, hint=hint)
        folders = [_folder(root) for root in roots]  # type: ignore[attr-defined]  # as above
        return cls(
            roots=tuple(folders),
            hosts=frozenset(host.lower() for host in hosts),  # type: ignore[attr-defined]  # as above
            max_pixels=max_pixels,
        )

    def check_path(self, path: Path, given: object, *, is_address: bool) -> Path:
        """Return the file that a path leads to; raises InvalidInputError for one out of bounds."""
        resolved = path.resolve()
        if not (self.roots or is_address):
            return resolved
        if not any(resolved.is_relative_to(root) for root in self.roots):
            below = " or ".join(map(str, self.roots)) or "any folder that may be read"
            raise InvalidInputError(
                given,
                f"the picture {str(path)!r} may not be read: it is not below {below}",
                hint="name the folder in media_roots",
            )
        return resolved

    def check_host(self, host: str | None, given: object) -> None:
        """Raise InvalidInputError for a host that is not named."""
        if (host or "").lower() not in self.hosts:
            raise InvalidInputError(
                given,
                f"the picture {given!r} may not be fetched: {host!r} is no host of "
                f"allow_media_hosts, which has {sorted(self.hosts) or 'none'}",
                hint="pass its path or its bytes, or name the host there",
            )

    def check_size(self, width: int, height: int, which: str) -> None:
        """Raise InvalidInputError for a picture of too many pixels."""
        if width * height > self.max_pixels:
            raise InvalidInputError(
                (width, height),
                f"{which} has {width} x {height} pixels, and max_pixels is {self.max_pixels}",
                hint="make it smaller, or raise max_pixels",
            )


def _folder(root: object) -> Path:
    if not isinstance(root, str | Path) or not (folder := Path(root).expanduser()).is_dir():
        problem = f"{root!r} in media_roots is no folder"
        raise InvalidOptionError("media_roots", root, problem)
    return folder.resolve()
