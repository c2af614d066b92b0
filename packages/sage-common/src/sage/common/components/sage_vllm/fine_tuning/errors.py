"""What can go wrong with a fine-tuning.

FineTuneRequestError    (EngineError, ValueError)           a field of the request is not valid
FineTuningPendingError  (EngineError, NotImplementedError)  it is valid, and nobody can do it
FineTuneError           (EngineError, RuntimeError)         a job failed while it ran
FineTuneJobError        (SageError, LookupError)            a folder is no job, or cannot do this
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sage.common.components.sage_vllm.errors import EngineError
from sage.common.core.errors import SageError

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.fine_tuning.request import FineTuneRequest

REQUIRED = ("base_model", "dataset_path", "output_dir", "strategy")
STRATEGIES = ("full", "lora", "qlora")
"""All weights; low-rank adapters; low-rank adapters on a model quantised to 4 bits."""

_EXAMPLE_SHAPES = (
    '{"messages": [{"role": ..., "content": ...}, ...]}, '
    '{"prompt": ..., "completion": ...}, {"prompt": ..., "chosen": ..., "rejected": ...} '
    'or {"text": ...}'
)
_LINES_SHOWN = 5
_HINTS = {
    "dataset_path": f"An example is one line of JSON: {_EXAMPLE_SHAPES}.",
    "output_dir": "Name a folder that is empty or does not exist yet.",
    "strategy": f"The strategies are {', '.join(STRATEGIES)}.",
}


class FineTuneRequestError(EngineError, ValueError):
    """A field of a fine-tuning request is missing or not valid: ``field``, by ``reason``.

    ``problems`` are all that were found in a dataset, each with its line; ``reason`` has the first
    of them.
    """

    def __init__(
        self,
        model_id: str,
        reason: str,
        field: str = "",
        *,
        hint: str | None = None,
        problems: tuple[str, ...] = (),
    ) -> None:
        stop = "" if reason.endswith("?") else "."
        super().__init__(
            model_id,
            f"fine-tuning request: {reason}{stop}",
            hint=hint or _HINTS.get(field, f"A request needs {', '.join(REQUIRED)}."),
        )
        self.field = field
        self.reason = reason
        self.problems = problems


class FineTuningPendingError(EngineError, NotImplementedError):
    """``request`` is valid, but no backend for its strategy is installed."""

    def __init__(self, request: FineTuneRequest) -> None:
        super().__init__(request.base_model, "Fine-tuning pipeline pending")
        self.request = request


class FineTuneError(EngineError, RuntimeError):
    """A job failed, or was cancelled or killed: ``state`` says which, ``folder`` is the job's."""

    def __init__(self, model_id: str, folder: Path, state: str, reason: str) -> None:
        super().__init__(
            model_id,
            f"the fine-tuning in {str(folder)!r} {_WHAT.get(state, 'failed')}: {reason}",
            hint=f"see {folder / 'worker.log'}; `sage llm fine-tune resume {folder}` goes on from "
            "its last checkpoint",
        )
        self.folder = folder
        self.state = state
        self.reason = reason


_WHAT = {"cancelled": "was cancelled", "interrupted": "was interrupted"}


class FineTuneJobError(SageError, LookupError):
    """A folder holds no fine-tuning, or one that cannot do what was asked now; ``folder``."""

    def __init__(self, folder: Path, problem: str, hint: str) -> None:
        super().__init__(f"{str(folder)!r} {problem}", hint=hint)
        self.folder = folder


def refuse_lines(
    model_id: str, field: str, where: str, problems: Sequence[str], hint: str | None = None
) -> None:
    """Raise FineTuneRequestError for a dataset of which there is something to tell.

    ``where`` is what the dataset is called behind its field; without a ``hint``, it says what an
    example is.
    """
    if not problems:
        return
    more = len(problems) - _LINES_SHOWN
    shown = "; ".join(problems[:_LINES_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    reason = f"{field} {where}: {shown}"
    hint = hint or _HINTS["dataset_path"]
    raise FineTuneRequestError(model_id, reason, field, hint=hint, problems=tuple(problems))
