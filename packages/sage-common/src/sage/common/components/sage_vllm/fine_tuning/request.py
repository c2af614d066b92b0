"""FineTuneRequest: what a fine-tuning is to do, checked field by field."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning.errors import (
    REQUIRED,
    STRATEGIES,
    FineTuneRequestError,
)
from sage.common.components.sage_vllm.fine_tuning.example_lines import ExampleFiles
from sage.common.core.errors import nearest
from sage.common.core.local_path import local_path
from sage.common.model_registry.vllm_registry import get_model, registry_root

METHODS = ("sft", "dpo")
"""Learn the answers; prefer the chosen answers to the rejected ones."""

WHILE_TRAINING = ("serve", "pause")
"""What the engines of a service do meanwhile: go on, or make room and have their calls wait."""

GATES = ("better", "proven")
"""As many held-out answers exact and a lower loss, or more; so many more that it is no chance."""


@dataclass(frozen=True, kw_only=True)
class FineTuneRequest:
    """A request that was checked: what a backend is called with.

    ``base_model_path`` is the model's folder in the registry. ``dataset_paths`` are JSONL files of
    ``example_count`` examples in all, each a conversation (``messages``), a ``prompt`` with its
    ``completion``, a ``prompt`` with a ``chosen`` and a ``rejected`` answer, or a ``text``.
    ``output_dir`` is empty or does not exist yet. The rest is optional:

    - ``method``: one of METHODS; None takes what the examples are for.
    - ``eval_dataset_path``: examples to evaluate on. Without it, those of the share
      ``eval_fraction`` of all prompts are held out; 0 evaluates nothing, so nothing is better.
    - ``replay_path``: examples of what the model can do already; they make up ``replay_share`` of
      what it is trained on, drawn anew for each epoch, so that it does not forget.
    - ``output_model``: the id to register the result under, once it was found to be better, or at
      any rate with ``keep_worse``. None registers nothing.
    - ``gate``: one of GATES, how much better it has to be.
    - ``baseline``: the id of an adapter that it has to be better than; None is the base model.
    - ``merge``: register a whole model, the adapter added to its weights.
    - ``while_training``: one of WHILE_TRAINING; only a service has engines that could pause.
    - ``root``: the registry's root; None is the usual one.
    """

    base_model: str
    base_model_path: Path
    dataset_paths: tuple[Path, ...]
    output_dir: Path
    strategy: str
    example_count: int
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    method: str | None = None
    eval_dataset_path: Path | None = None
    eval_fraction: float = 0.1
    replay_path: Path | None = None
    replay_share: float = 0.25
    output_model: str | None = None
    merge: bool = False
    keep_worse: bool = False
    gate: str = "better"
    baseline: str | None = None
    while_training: str = "serve"
    root: Path | None = None

    @property
    def dataset_path(self) -> Path:
        """The file with examples, for a backend that reads a single one.

        Raises FineTuneRequestError where the request names several.
        """
        if len(self.dataset_paths) > 1:
            reason = f"the backend reads one file with examples, not {len(self.dataset_paths)}"
            hint = "Put all examples into one file."
            raise FineTuneRequestError(self.base_model, reason, "dataset_path", hint=hint)
        return self.dataset_paths[0]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, without the options that were left at their defaults."""
        plain: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.default is not MISSING and value == each.default:
                continue
            plain[each.name] = str(value) if isinstance(value, Path) else value
        files = [str(path) for path in plain.pop("dataset_paths")]
        dataset = {"dataset_path": files if len(files) > 1 else files[0]}
        return plain | dataset | {"hyperparameters": dict(self.hyperparameters)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> FineTuneRequest:
        """Return the request that ``to_json`` made this of."""
        paths = {each.name for each in fields(cls) if "Path" in str(each.type)}
        given: dict[str, Any] = {
            name: Path(value) if name in paths else value for name, value in plain.items()
        }
        files = given.pop("dataset_path")
        files = [files] if isinstance(files, str) else files
        return cls(**given, dataset_paths=tuple(map(Path, files)))


_OPTIONAL = (
    "hyperparameters", "revision", "method", "eval_dataset_path", "eval_fraction", "replay_path",
    "replay_share", "output_model", "merge", "keep_worse", "gate", "baseline", "while_training",
)  # fmt: skip


def check_request(
    request: Mapping[str, Any],
    *,
    root: str | os.PathLike[str] | None = None,
    read_examples: bool = True,
) -> FineTuneRequest:
    """Return a request as a FineTuneRequest; nothing is written.

    ``read_examples=False`` leaves the dataset to the backend, which then reads and counts it.

    Raises FineTuneRequestError for a field that is missing, unknown or not valid, and
    ModelNotFoundError for a base model that is not in the registry.
    """
    if not isinstance(request, Mapping):
        raise FineTuneRequestError("", f"it must be a mapping, not {request!r}")
    model_id = str(request.get("base_model", ""))
    _check_names(model_id, request)
    _check_values(model_id, request)
    dataset = _paths(model_id, request, "dataset_path")
    output = _path(model_id, request, "output_dir")
    _check_output(model_id, output, registry_root(root))
    optional_paths = {
        name: _path(model_id, request, name)
        for name in ("eval_dataset_path", "replay_path")
        if request.get(name) is not None
    }
    optional = {name: request[name] for name in _OPTIONAL if request.get(name) is not None}
    base = get_model(model_id, request.get("revision"), root=root)
    return FineTuneRequest(
        **{
            **optional,
            **optional_paths,
            "base_model": model_id,
            "base_model_path": base.path,
            "dataset_paths": dataset,
            "output_dir": output,
            "strategy": request["strategy"],
            "example_count": (
                ExampleFiles(model_id, "dataset_path", dataset).read() if read_examples else 0
            ),
            "hyperparameters": dict(request.get("hyperparameters") or {}),
            "root": None if root is None else registry_root(root),
        }
    )


def _check_names(model_id: str, request: Mapping[str, Any]) -> None:
    known = [*REQUIRED, *_OPTIONAL]
    for name in request:
        if name not in known:
            hint = nearest(str(name), known)
            raise FineTuneRequestError(model_id, f"unknown field {name!r}; {hint}", str(name))
    for name in REQUIRED:
        if name not in request:
            needed = ", ".join(REQUIRED)
            raise FineTuneRequestError(model_id, f"{name!r} is missing; it needs {needed}", name)


def _check_values(model_id: str, request: Mapping[str, Any]) -> None:
    choices = (
        ("strategy", STRATEGIES),
        ("method", METHODS),
        ("gate", GATES),
        ("while_training", WHILE_TRAINING),
    )
    for name, known in choices:
        value = request.get(name)
        if value not in known and (value is not None or name == "strategy"):
            hint = nearest(str(value), list(known))
            raise FineTuneRequestError(model_id, f"unknown {name} {value!r}; {hint}", name)
    hyperparameters = request.get("hyperparameters") or {}
    if not isinstance(hyperparameters, Mapping):
        reason = f"hyperparameters must be a mapping, not {hyperparameters!r}"
        raise FineTuneRequestError(model_id, reason, "hyperparameters")
    for name in ("base_model", "revision", "output_model", "baseline"):
        value = request.get(name)
        if not isinstance(value, str) and (value is not None or name == "base_model"):
            raise FineTuneRequestError(model_id, f"{name} must be a string, not {value!r}", name)
    for name in ("eval_fraction", "replay_share"):
        value = request.get(name, 0)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < 1:
            reason = f"{name} must be a share, 0 or more and below 1, not {value!r}"
            raise FineTuneRequestError(model_id, reason, name)
    for name in ("merge", "keep_worse"):
        if not isinstance(value := request.get(name, False), bool):
            reason = f"{name} must be True or False, not {value!r}"
            raise FineTuneRequestError(model_id, reason, name)


def _paths(model_id: str, request: Mapping[str, Any], name: str) -> tuple[Path, ...]:
    """Return the files that a field names, one or a list of them."""
    given = request[name]
    several = isinstance(given, list | tuple)
    if several and not given:
        raise FineTuneRequestError(model_id, f"{name} must name a file, not {given!r}", name)
    paths = [_path(model_id, {name: each}, name) for each in (given if several else [given])]
    if twice := [path for path in paths if paths.count(path) > 1]:
        reason = f"{name} names {str(twice[0])!r} twice"
        raise FineTuneRequestError(model_id, reason, name, hint="Name each file once.")
    return tuple(paths)


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
