"""What can be wrong with a checkpoint.

CheckpointError                       the store cannot be read or written, or the source changed
├── CheckpointInUseError              (RuntimeError) another run has it open
├── CheckpointMismatchError           (ValueError) another pipeline began it
│   ├── InputChangedError             its input is another one by now, or longer
│   └── ServiceChangedError           a service would make other results by now
└── UnsupportedPipelineError          (ValueError) the pipeline's shape cannot be resumed
"""

from __future__ import annotations

from sage.common.core.errors import SageError


class CheckpointError(SageError):
    """A checkpoint cannot be used; ``folder`` is where it lies, ``reason`` why."""

    def __init__(self, folder: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"checkpoint {folder!r}: {reason}", hint=hint)
        self.folder = folder
        self.reason = reason


class CheckpointInUseError(CheckpointError, RuntimeError):
    """Another run has the checkpoint open."""


class CheckpointMismatchError(CheckpointError, ValueError):
    """The checkpoint was begun by another pipeline; ``remedy`` is what would go on with it."""

    def __init__(self, folder: str, reason: str, remedy: str) -> None:
        anew = "or begin anew with another folder or by deleting this one"
        super().__init__(folder, f"{reason}.", hint=f"{remedy}, {anew}")
        self.reason = reason


class InputChangedError(CheckpointMismatchError):
    """The input is not what it was when the checkpoint was begun; ``grew`` if only more came."""

    def __init__(self, folder: str, reason: str, remedy: str, *, grew: bool = False) -> None:
        super().__init__(folder, reason, remedy)
        self.grew = grew


class ServiceChangedError(CheckpointMismatchError):
    """A service says that its results follow from something else than when it was begun."""


class UnsupportedPipelineError(CheckpointError, ValueError):
    """A pipeline of this shape cannot be continued where it stopped."""
