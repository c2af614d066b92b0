"""What can be wrong with the files that a job reads and writes.

InputFileError                        (ValueError) a file, or a record in it, cannot be read
MissingInputError                     (FileNotFoundError) there is no such file or folder
OutputFileError                       (RuntimeError) an output cannot be written or continued
"""

from __future__ import annotations

from sage.common.core.errors import SageError


class InputFileError(SageError, ValueError):
    """A file cannot be read, or holds something that is no record, by ``reason``.

    ``path`` names the file, ``line`` the line or row, counted from 1, None where it is the file.
    """

    def __init__(
        self,
        path: str,
        line: int | None,
        reason: str,
        *,
        unit: str = "line",
        hint: str | None = None,
    ) -> None:
        where = path if line is None else f"{path}, {unit} {line}"
        super().__init__(f"{where}: {reason}", hint=hint)
        self.path = path
        self.line = line
        self.reason = reason


class MissingInputError(SageError, FileNotFoundError):
    """There is no file to read at ``path``."""

    def __init__(self, path: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(problem, hint=hint)
        self.path = path


class OutputFileError(SageError, RuntimeError):
    """An output cannot be written, or not be continued where a checkpoint left it."""

    def __init__(self, path: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = path
        self.reason = reason
