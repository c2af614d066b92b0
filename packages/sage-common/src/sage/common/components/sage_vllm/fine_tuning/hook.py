"""The way from a fine-tuning request to whoever carries it out.

This package trains nothing. A backend is a function that accepts a FineTuneRequest and returns a
mapping; a distribution registers it under the entry-point group ``sage.fine_tuning``, named after
the strategy it implements, or ``default`` for all that have none of their own::

    [project.entry-points."sage.fine_tuning"]
    lora = "my_package.lora:train"

What it registers may do more than be called: see JobBackend. ``isage-tuning`` brings such a one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sage.common.components.sage_vllm.fine_tuning.errors import (
    FineTuneRequestError,
    FineTuningPendingError,
)
from sage.common.components.sage_vllm.fine_tuning.job import FineTuneJob
from sage.common.components.sage_vllm.fine_tuning.request import FineTuneRequest, check_request

BACKEND_GROUP = "sage.fine_tuning"
DEFAULT_BACKEND = "default"

Backend = Callable[[FineTuneRequest], Mapping[str, Any]]


@runtime_checkable
class JobBackend(Protocol):
    """What a backend may do besides: read the dataset itself, and run jobs of their own process."""

    def __call__(self, request: FineTuneRequest) -> Mapping[str, Any]:
        """Train, and return when the job is done."""
        ...

    def check(self, request: FineTuneRequest) -> Mapping[str, Any]:
        """Read the dataset and return what it would be trained as; nothing is written.

        The report has at least ``examples``, how many there are. Raises FineTuneRequestError.
        """
        ...

    def start(self, request: FineTuneRequest, *, idle: bool = False) -> FineTuneJob:
        """Check a request, and start a process that trains; return when it is started.

        ``idle`` has it run only while the processors have nothing else to do: an engine serves
        beside it.
        """
        ...

    def resume(self, folder: Path, *, idle: bool = False) -> FineTuneJob:
        """Start a process that goes on from a job's last checkpoint; raises FineTuneJobError."""
        ...


def fine_tune(
    request: Mapping[str, Any],
    *,
    root: str | os.PathLike[str] | None = None,
    idle: bool = False,
    started: Callable[[FineTuneJob], object] | None = None,
) -> dict[str, Any]:
    """Check a request, hand it to the backend for its strategy, and return what that returns.

    Args:
        request: ``base_model``, ``dataset_path``, ``output_dir``, ``strategy`` (one of
            STRATEGIES), and if wanted ``hyperparameters``, a mapping that only the backend reads,
            and the other fields of FineTuneRequest.
        root: the registry's root; None is the usual one.
        idle: as of ``start_fine_tuning``.
        started: told the job, where the backend runs jobs.

    Raises:
        FineTuneRequestError: a field is missing, unknown or not valid.
        ModelNotFoundError: the base model is not in the registry.
        FineTuningPendingError: no backend is installed.
        FineTuneError: the job failed, or was cancelled or killed.
    """
    checked, (name, backend) = _prepare(request, root)
    if isinstance(backend, JobBackend):
        return _outcome(backend.start(checked, idle=idle), started)
    result = backend(checked)
    if not isinstance(result, Mapping):
        raise TypeError(f"the backend {name} must return a mapping, not {result!r}")
    return dict(result)


def _outcome(job: FineTuneJob, started: Callable[[FineTuneJob], object] | None) -> dict[str, Any]:
    try:
        if started is not None:
            started(job)
        return job.result()
    except BaseException:
        job.cancel()  # a Ctrl-C, mostly: it stops with a checkpoint
        raise


def start_fine_tuning(
    request: Mapping[str, Any],
    *,
    root: str | os.PathLike[str] | None = None,
    idle: bool = False,
) -> FineTuneJob:
    """Check a request and start a process that carries it out; return its job at once.

    The process ends with this one; the job can then be resumed. ``idle`` has it run only while
    the processors have nothing else to do. Errors are those of ``fine_tune``.
    """
    checked, (name, backend) = _prepare(request, root)
    return _running_jobs(checked.base_model, name, backend).start(checked, idle=idle)


def resume_fine_tuning(folder: str | os.PathLike[str], *, idle: bool = False) -> FineTuneJob:
    """Start a process that goes on from a job's last checkpoint; return the job at once.

    Raises FineTuneJobError for a folder that is no job's, and for a job that has ended well or
    that is being worked on.
    """
    job = FineTuneJob.open(folder)
    request = FineTuneRequest.from_json(job.request)
    found = _find_backend(request.strategy)
    if found is None:
        raise FineTuningPendingError(request)
    return _running_jobs(request.base_model, *found).resume(job.folder, idle=idle)


def preview_fine_tuning(
    request: Mapping[str, Any], *, root: str | os.PathLike[str] | None = None
) -> tuple[FineTuneRequest, dict[str, Any]]:
    """Check all of a request as ``review_fine_tuning`` does, also where no backend is installed.

    The report is empty then.
    """
    try:
        return review_fine_tuning(request, root=root)
    except FineTuningPendingError as error:
        return error.request, {}


def review_fine_tuning(
    request: Mapping[str, Any], *, root: str | os.PathLike[str] | None = None
) -> tuple[FineTuneRequest, dict[str, Any]]:
    """Check all of a request and return it with the backend's report; nothing is written.

    The report is empty where the backend makes none. Errors are those of ``fine_tune``.
    """
    checked, (_, backend) = _prepare(request, root)
    if not isinstance(backend, JobBackend):
        return checked, {}
    report = dict(backend.check(checked))
    return replace(checked, example_count=report["examples"]), report


def _prepare(
    request: Mapping[str, Any], root: str | os.PathLike[str] | None
) -> tuple[FineTuneRequest, tuple[str, Backend]]:
    strategy = request.get("strategy") if isinstance(request, Mapping) else None
    found = _find_backend(str(strategy))
    reads_itself = found is not None and isinstance(found[1], JobBackend)
    checked = check_request(request, root=root, read_examples=not reads_itself)
    if found is None:
        raise FineTuningPendingError(checked)
    return checked, found


def _running_jobs(model_id: str, name: str, backend: Backend) -> JobBackend:
    if not isinstance(backend, JobBackend):
        reason = f"the backend {name} runs no jobs"
        hint = "Call fine_tune, which waits for it."
        raise FineTuneRequestError(model_id, reason, "strategy", hint=hint)
    return backend


def _find_backend(strategy: str) -> tuple[str, Backend] | None:
    found = entry_points(group=BACKEND_GROUP)
    for name in (strategy, DEFAULT_BACKEND):
        for backend in found.select(name=name):
            return backend.value, backend.load()
    return None
