"""How commands say that they cannot go on.

CommandError    what went wrong and what to do
Interrupted     Ctrl-C, where there is something better to say of it than nothing
"""

from __future__ import annotations

from sage.common.core.errors import SageError


class CommandError(SageError):
    """A command failed; `problem` says of what, `hint` what to do."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem, hint=hint)


class Interrupted(Exception):  # noqa: N818 - it is no error
    """A command was stopped by Ctrl-C; `hint` says what became of its work."""

    def __init__(self, hint: str) -> None:
        super().__init__(hint)
        self.hint = hint
