"""What can be wrong with the files that a job reads and writes."""

from __future__ import annotations

from sage.common.core.errors import SageError


class InputFileError(SageError, ValueError):
    """A file holds something that is no record; ``line`` is counted from 1, None if unknown."""

    def __init__(self, path: str, line: int | None, problem: str) -> None:
        super().__init__(path, line, problem)
        self.path = path
        self.line = line
        self.problem = problem

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}, line {self.line}"
        return f"{where}: {self.problem}"


class OutputFileError(SageError, RuntimeError):
    """An output cannot be written, or not be continued where a checkpoint left it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"
