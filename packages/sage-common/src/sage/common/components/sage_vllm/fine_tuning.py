"""Fine-tuning: the request, checked in full, and the way to whoever carries it out.

This package trains nothing. A backend is a function that takes a FineTuneRequest and returns a
mapping; a distribution registers it under the entry-point group ``sage.fine_tuning``, named after
the strategy it implements, or ``default`` for all that have none of their own::

    [project.entry-points."sage.fine_tuning"]
    lora = "my_package.lora:train"

FineTuneRequestError    (EngineError, ValueError)             a field of the request is not valid
FineTuningPendingError  (EngineError, NotImplementedError)    it is valid, and nobody can do it
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.errors import EngineError
from sage.common.core.errors import nearest
from sage.common.core.local_path import local_path
from sage.common.model_registry.vllm_registry import get_model, registry_root

BACKEND_GROUP = "sage.fine_tuning"
DEFAULT_BACKEND = "default"
STRATEGIES = ("full", "lora", "qlora")
"""All weights; low-rank adapters; low-rank adapters on a model quantised to 4 bits."""

_REQUIRED = ("base_model", "dataset_path", "output_dir", "strategy")
_OPTIONAL = ("hyperparameters",)
_EXAMPLE_SHAPES = (
    '{"messages": [{"role": ..., "content": ...}, ...]}, '
    '{"prompt": ..., "completion": ...} or {"text": ...}'
)
_LINES_SHOWN = 5
_HINTS = {
    "dataset_path": f"An example is one line of JSON: {_EXAMPLE_SHAPES}.",
    "output_dir": "Name a folder that is empty or does not exist yet.",
    "strategy": f"The strategies are {', '.join(STRATEGIES)}.",
}


class FineTuneRequestError(EngineError, ValueError):
    """A field of a fine-tuning request is missing or not valid: ``field``, by ``reason``."""

    def __init__(self, model_id: str, reason: str, field: str = "") -> None:
        stop = "" if reason.endswith("?") else "."
        super().__init__(
            model_id,
            f"fine-tuning request: {reason}{stop}",
            hint=_HINTS.get(field, f"A request needs {', '.join(_REQUIRED)}."),
        )
        self.field = field
        self.reason = reason


class FineTuningPendingError(EngineError, NotImplementedError):
    """``request`` is valid, but no backend for its strategy is installed."""

    def __init__(self, request: FineTuneRequest) -> None:
        super().__init__(request.base_model, "Fine-tuning pipeline pending")
        self.request = request


@dataclass(frozen=True, kw_only=True)
class FineTuneRequest:
    """A request that was checked: what a backend is called with.

    ``base_model_path`` is the model's folder in the registry. ``dataset_path`` is a JSONL file of
    ``example_count`` examples, each a conversation (``messages``), a ``prompt`` with its
    ``completion``, or a ``text``. ``output_dir`` is empty or does not exist yet.
    """

    base_model: str
    base_model_path: Path
    dataset_path: Path
    output_dir: Path
    strategy: str
    example_count: int
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


Backend = Callable[[FineTuneRequest], Mapping[str, Any]]


def fine_tune(
    request: Mapping[str, Any], *, root: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Check a request, hand it to the backend for its strategy, and return what that returns.

    Args:
        request: ``base_model``, ``dataset_path``, ``output_dir``, ``strategy`` (one of
            STRATEGIES), and if wanted ``hyperparameters``, a mapping that only the backend reads.
        root: the registry's root; None is the usual one.

    Raises:
        FineTuneRequestError: a field is missing, unknown or not valid.
        ModelNotFoundError: the base model is not in the registry.
        FineTuningPendingError: no backend is installed.
    """
    checked = check_request(request, root=root)
    backend = _find_backend(checked.strategy)
    if backend is None:
        raise FineTuningPendingError(checked)
    train: Backend = backend.load()
    result = train(checked)
    if not isinstance(result, Mapping):
        raise TypeError(f"the backend {backend.value} must return a mapping, not {result!r}")
    return dict(result)


def check_request(
    request: Mapping[str, Any], *, root: str | os.PathLike[str] | None = None
) -> FineTuneRequest:
    """Return the request as a FineTuneRequest; errors as of ``fine_tune``. Nothing is written."""
    if not isinstance(request, Mapping):
        raise FineTuneRequestError("", f"it must be a mapping, not {request!r}")
    model_id = str(request.get("base_model", ""))
    known = [*_REQUIRED, *_OPTIONAL]
    for name in request:
        if name not in known:
            hint = nearest(str(name), known)
            raise FineTuneRequestError(model_id, f"unknown field {name!r}; {hint}", str(name))
    for name in _REQUIRED:
        if name not in request:
            needed = ", ".join(_REQUIRED)
            raise FineTuneRequestError(model_id, f"{name!r} is missing; it needs {needed}", name)
    strategy = request["strategy"]
    if strategy not in STRATEGIES:
        hint = nearest(str(strategy), list(STRATEGIES))
        raise FineTuneRequestError(model_id, f"unknown strategy {strategy!r}; {hint}", "strategy")
    hyperparameters = request.get("hyperparameters") or {}
    if not isinstance(hyperparameters, Mapping):
        raise FineTuneRequestError(
            model_id,
            f"hyperparameters must be a mapping, not {hyperparameters!r}",
            "hyperparameters",
        )
    if not isinstance(request["base_model"], str):
        raise FineTuneRequestError(
            model_id, f"base_model must be a string, not {request['base_model']!r}", "base_model"
        )
    dataset = _path(model_id, request, "dataset_path")
    output = _path(model_id, request, "output_dir")
    _check_output(model_id, output, registry_root(root))
    return FineTuneRequest(
        base_model=model_id,
        base_model_path=get_model(model_id, root=root).path,
        dataset_path=dataset,
        output_dir=output,
        strategy=strategy,
        example_count=_count_examples(model_id, dataset),
        hyperparameters=dict(hyperparameters),
    )


def _find_backend(strategy: str) -> EntryPoint | None:
    found = entry_points(group=BACKEND_GROUP)
    for name in (strategy, DEFAULT_BACKEND):
        for backend in found.select(name=name):
            return backend
    return None


def _path(model_id: str, request: Mapping[str, Any], name: str) -> Path:
    value = request[name]
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise FineTuneRequestError(model_id, f"{name} must be a path, not {value!r}", name)
    return local_path(value).absolute()


def _check_output(model_id: str, folder: Path, registry: Path) -> None:
    """Check that the folder is empty, or absent where it can be made."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    problem = None
    if folder.is_relative_to(registry):
        problem = f"it lies in the model registry at {registry}"
    elif not existing.is_dir():
        problem = f"{existing} is not a folder"
    elif existing == folder and any(folder.iterdir()):
        problem = "it is not empty; name a new folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = f"{existing} cannot be written"
    if problem:
        raise FineTuneRequestError(
            model_id, f"output_dir {str(folder)!r} cannot be used: {problem}", "output_dir"
        )


def _count_examples(model_id: str, file: Path) -> int:
    """Check every line of the dataset and return how many examples it has."""
    count, wrong = 0, []
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                count += 1
                if problem := _problem_with(line):
                    wrong.append(f"line {number} {problem}")
    except OSError as error:
        wrong.append(f"cannot be read ({error.strerror})")
    if not count and not wrong:
        wrong.append("it holds no examples")
    if wrong:
        more = len(wrong) - _LINES_SHOWN
        shown = "; ".join(wrong[:_LINES_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise FineTuneRequestError(model_id, f"dataset_path {str(file)!r}: {shown}", "dataset_path")
    return count


def _problem_with(line: bytes) -> str | None:
    """Return what keeps a line from being an example, None if nothing does."""
    try:
        example = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    if not isinstance(example, dict):
        return f"must be an object, not {line.decode(errors='replace').strip()[:40]}"
    if "messages" in example:
        turns = example["messages"]
        if not isinstance(turns, list) or not turns:
            return "must have a list of turns as its messages"
        bad = next((number for number, turn in enumerate(turns, 1) if not _is_turn(turn)), None)
        return f"needs a role and a content in turn {bad} of its messages" if bad else None
    if "prompt" in example or "completion" in example:
        has_both = all(isinstance(example.get(name), str) for name in ("prompt", "completion"))
        return None if has_both else "needs both a prompt and a completion, as strings"
    if isinstance(example.get("text"), str):
        return None
    return "needs messages, a prompt and a completion, or a text"


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and "content" in turn
