"""The folder in which a download gathers, and what of it can be kept from an earlier attempt."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sage.common.model_registry.checksums import find_problems
from sage.common.model_registry.download.progress import FileProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sage.common.model_registry.model_info import FileRecord

CLIENT_FOLDER = ".cache/huggingface"
"""Where the hub's client keeps its notes and its unfinished files, inside the staging folder."""


class Staging:
    """The staging folder of one commit; its user holds the model's lock."""

    def __init__(self, folder: Path, expected: Mapping[str, FileRecord]) -> None:
        self.folder = folder
        self.expected = expected

    def prepare(self, sources: Iterable[Path]) -> None:
        """Make the folder safe to write, and take files over from folders of the same model.

        Taken files are hard links, so a new revision costs only the disk of what changed in it.
        They are checked like any other before they count.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_strangers()
        for source in sources:
            for path, record in self.expected.items():
                self._take(source / path, self.folder / path, record.size)

    def _remove_strangers(self) -> None:
        # A link could lead a writer out of the root; an unfinished file of a killed client is
        # never used again; a file of another selection does not belong to this one.
        for folder, subfolders, names in os.walk(self.folder, topdown=False):
            for name in (*subfolders, *names):
                path = Path(folder) / name
                inside = path.relative_to(self.folder)
                of_client = inside.as_posix().startswith(f"{CLIENT_FOLDER}/")
                if path.is_symlink() or (
                    not path.is_dir()
                    and (
                        path.suffix == ".incomplete"
                        if of_client
                        else inside.as_posix() not in self.expected
                    )
                ):
                    path.unlink()

    def _take(self, source: Path, target: Path, size: int) -> None:
        if target.exists() or source.is_symlink() or not source.is_file():
            return
        if source.stat().st_size == size:
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # a disk without hard links: the file is fetched instead
                os.link(source, target)

    def remove_bad(
        self, paths: Iterable[str], on_checked: Callable[[str, int], None] | None = None
    ) -> dict[str, str]:
        """Check files and remove those that are wrong; returns path -> what was wrong."""
        chosen = {path: self.expected[path] for path in paths}
        problems = find_problems(self.folder, chosen, on_checked=on_checked)
        for path in problems:
            (self.folder / path).unlink(missing_ok=True)
        return problems

    def absent(self, paths: Iterable[str]) -> list[str]:
        """Those of `paths` that are not there yet."""
        return [path for path in paths if not (self.folder / path).is_file()]

    def in_flight(self, paths: Iterable[str]) -> tuple[FileProgress, ...]:
        """Return the files being written: the client names each unfinished one by its checksum."""
        by_checksum = {self.expected[path].checksum: path for path in paths}
        found = []
        for unfinished in sorted(self.folder.glob(f"{CLIENT_FOLDER}/**/*.incomplete")):
            path = next(
                (by_checksum[part] for part in unfinished.name.split(".") if part in by_checksum),
                None,
            )
            if path is not None:
                with suppress(FileNotFoundError):  # finished between the two looks
                    done = unfinished.stat().st_size
                    found.append(
                        FileProgress(
                            path=path, done_bytes=done, total_bytes=self.expected[path].size
                        )
                    )
        return tuple(found)

    def strip(self) -> None:
        """Leave nothing but the model's own files."""
        shutil.rmtree(self.folder / CLIENT_FOLDER, ignore_errors=True)
        with suppress(OSError):  # not there, or it has files of the model's own
            (self.folder / CLIENT_FOLDER).parent.rmdir()
