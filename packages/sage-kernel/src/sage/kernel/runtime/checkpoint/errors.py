"""What can be wrong with a checkpoint.

CheckpointError                       the store cannot be read or written, or the source changed
├── CheckpointInUseError              (RuntimeError) another run has it open
├── CheckpointMismatchError           (ValueError) another pipeline began it
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


class UnsupportedPipelineError(CheckpointError, ValueError):
    """A pipeline of this shape cannot be continued where it stopped."""
