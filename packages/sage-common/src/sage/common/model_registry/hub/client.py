"""The seam to the model hub: what is there, and getting it. huggingface_hub is imported only here.

Facts of its client that shape this file: it takes no interruption, it may wait without limit for an
answer, and asked for anything but a commit it reports success when the hub is away.
"""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING, Any, TypeVar

from sage.common.model_registry.hub.errors import translating
from sage.common.model_registry.hub.watched_call import CallCancelledError, watched_call
from sage.common.model_registry.model_info import FileRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

Result = TypeVar("Result")

SILENCE_LIMIT = 120.0
"""Seconds without a byte after which a call is given up; the client's own retries take 70."""

_PATTERNS_AT_ONCE = 200  # the client compiles each pattern, and forgets them beyond 256


def _ignore(*_: object) -> None:
    """For calls whose progress nobody watches."""


class Hub:
    """One model on the hub."""

    def __init__(self, model_id: str, *, token: str | None = None) -> None:
        self.model_id = model_id
        self._token = token

    def commit_of(self, revision: str) -> str:
        """Return the commit that a branch, tag or commit means now."""

        def ask() -> str:
            from huggingface_hub import HfApi

            info = HfApi(token=self._token).model_info(self.model_id, revision=revision)
            if not info.sha:
                raise ValueError("it named no commit")
            return info.sha

        return self._call(ask, revision)

    def files_of(self, commit: str) -> dict[str, FileRecord]:
        """Every file of a commit with its size and checksum."""

        def ask() -> dict[str, FileRecord]:
            from huggingface_hub import HfApi
            from huggingface_hub.hf_api import RepoFile

            tree = HfApi(token=self._token).list_repo_tree(
                self.model_id, recursive=True, revision=commit
            )
            return dict(_entry(item) for item in tree if isinstance(item, RepoFile))

        return self._call(ask, commit)

    def fetch(
        self,
        commit: str,
        paths: Iterable[str],
        folder: Path,
        *,
        max_workers: int,
        on_bytes: Callable[[int], None] = _ignore,
    ) -> None:
        """Download files into `folder`; `on_bytes` is told the bytes so far as they come.

        Complete files may be left behind by a failed call; whether a file is right is for the
        caller to check.
        """
        names = list(paths)
        before = 0
        for start in range(0, len(names), _PATTERNS_AT_ONCE):
            part = names[start : start + _PATTERNS_AT_ONCE]
            before += self._fetch_part(commit, part, folder, max_workers, on_bytes, before)

    def _fetch_part(
        self,
        commit: str,
        paths: list[str],
        folder: Path,
        max_workers: int,
        on_bytes: Callable[[int], None],
        before: int,
    ) -> int:
        meter = ByteMeter()

        def ask() -> None:
            from huggingface_hub import snapshot_download

            snapshot_download(
                self.model_id,
                revision=commit,
                local_dir=folder,
                allow_patterns=[glob.escape(path) for path in paths],
                max_workers=max_workers,
                token=self._token,
                tqdm_class=meter.bar_class(),
            )

        self._call(ask, commit, meter=meter, on_tick=lambda: on_bytes(before + meter.count()))
        return meter.count()

    def _call(
        self,
        function: Callable[[], Result],
        revision: str,
        *,
        meter: ByteMeter | None = None,
        on_tick: Callable[[], None] = _ignore,
    ) -> Result:
        meter = meter or ByteMeter()
        with translating(self.model_id, revision, token=self._token):
            return watched_call(
                function,
                sign_of_life=meter.count,
                silence_limit=SILENCE_LIMIT,
                on_tick=on_tick,
                cancel=meter.cancel,
            )


class ByteMeter:
    """Counts the bytes the client reports to its progress bars, and can stop it through them."""

    def __init__(self) -> None:
        self._bars: list[_Bar] = []
        self.cancelled = False

    def count(self) -> int:
        """Bytes so far. Two bars count them (received, written); the fuller one is right."""
        return max((int(bar.n) for bar in self._bars if bar.counts_bytes), default=0)

    def cancel(self) -> None:
        """Make the client stop at the next piece of each file."""
        self.cancelled = True

    def bar_class(self) -> type[Any]:
        """Return what the client is given for `tqdm_class`."""
        meter = self

        class Bar(_Bar):
            def __init__(self, *_: Any, total: float | None = None, unit: str = "it", **__: Any):
                super().__init__(meter, total, unit)
                meter._bars.append(self)

        return Bar


class _Bar:
    """As much of tqdm as the client uses; draws nothing."""

    def __init__(self, meter: ByteMeter, total: float | None, unit: str) -> None:
        self._meter = meter
        self._total = total
        self.counts_bytes = unit == "B"
        self.n: float = 0
        self.format_dict: dict[str, Any] = {}

    @property
    def total(self) -> float | None:
        return self._total

    @total.setter
    def total(self, total: float | None) -> None:
        self._stop_if_cancelled()  # a new file begins
        self._total = total

    def update(self, n: float | None = 1) -> None:
        self._stop_if_cancelled()
        self.n += n or 0

    def _stop_if_cancelled(self) -> None:
        if self._meter.cancelled:
            raise CallCancelledError

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None: ...

    refresh = close = set_description = set_description_str = set_postfix_str = (
        lambda self, *_, **__: None  # noqa: ARG005 - one shape for five methods
    )


def _entry(item: Any) -> tuple[str, FileRecord]:
    """Return a file of the listing; ValueError if the hub's answer is not what it should be."""
    if item.lfs is not None:
        size, algorithm, checksum = item.lfs.size, "sha256", item.lfs.sha256
    else:
        size, algorithm, checksum = item.size, "git_sha1", item.blob_id
    if not (isinstance(item.path, str) and isinstance(size, int) and isinstance(checksum, str)):
        raise ValueError(f"{item.path!r} is listed without a size or a checksum")
    return item.path, FileRecord(size=size, algorithm=algorithm, checksum=checksum)
