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
    """A checkpoint cannot be used; ``folder`` is where it lies."""

    def __init__(self, folder: str, problem: str) -> None:
        super().__init__(folder, problem)
        self.folder = folder
        self.problem = problem

    def __str__(self) -> str:
        return f"checkpoint {self.folder!r}: {self.problem}"


class CheckpointInUseError(CheckpointError, RuntimeError):
    """Another run has the checkpoint open."""


class CheckpointMismatchError(CheckpointError, ValueError):
    """The checkpoint was begun by a pipeline other than this one."""


class InputChangedError(CheckpointMismatchError):
    """The input is not what it was when the checkpoint was begun; ``grew`` if only more came."""

    def __init__(self, folder: str, problem: str, *, grew: bool = False) -> None:
        super().__init__(folder, problem)
        self.grew = grew


class ServiceChangedError(CheckpointMismatchError):
    """A service says that its results follow from something else than when it was begun."""


class UnsupportedPipelineError(CheckpointError, ValueError):
    """A pipeline of this shape cannot be continued where it stopped."""
