"""From the payload of ``VLLMService.process`` to the method that it names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.core.background import in_background
from sage.common.core.errors import nearest

_KEYS = {"task", "inputs", "options"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task by the method that runs it.

    ``has_inputs`` says whether the payload's inputs are the method's first argument;
    ``returns_future`` whether the method returns a Future, or runs to the end of the task.
    """

    run: Callable[..., Any]
    has_inputs: bool = False
    returns_future: bool = False


def tasks_of(service: Any) -> dict[str, Task]:
    """Return the tasks of a VLLMService by name."""
    return {
        "generate": Task(run=service.generate_async, has_inputs=True, returns_future=True),
        "embed": Task(run=service.embed_async, has_inputs=True, returns_future=True),
        "score": Task(run=service.score_async, has_inputs=True, returns_future=True),
        "rerank": Task(run=service.rerank_async, has_inputs=True, returns_future=True),
        "classify": Task(run=service.classify_async, has_inputs=True, returns_future=True),
        "reward": Task(run=service.reward_async, has_inputs=True, returns_future=True),
        "loglikelihood": Task(
            run=service.loglikelihood_async, has_inputs=True, returns_future=True
        ),
        "beam_search": Task(run=service.beam_search_async, has_inputs=True, returns_future=True),
        "fine_tune": Task(run=service.fine_tune_future, has_inputs=True, returns_future=True),
        "fine_tune_jobs": Task(run=service.fine_tune_jobs),
        "cancel_fine_tune": Task(run=service.cancel_fine_tune),
        "show_models": Task(run=service.show_models),
        "download_model": Task(run=service.download_model),
        "delete_model": Task(run=service.delete_model),
        "switch_model": Task(run=service.switch_model),
        "stats": Task(run=service.stats),
        "health": Task(run=service.health),
    }


def start_task(payload: Mapping[str, Any], tasks: Mapping[str, Task]) -> Future[Any]:
    """Start what ``{"task": ..., "inputs": ..., "options": {...}}`` asks for.

    Raises InvalidInputError for a payload that names no task, or whose inputs or options do not
    fit it.
    """
    if not isinstance(payload, Mapping) or not set(payload) <= _KEYS:
        raise InvalidInputError(
            payload,
            f"the payload must be {{'task': ..., 'inputs': ..., 'options': {{...}}}}, "
            f"not {payload!r}",
        )
    name, options = payload.get("task"), payload.get("options") or {}
    if not isinstance(options, Mapping):
        raise InvalidInputError(options, f"'options' must be a mapping, not {options!r}")
    if not isinstance(name, str) or name not in tasks:
        hint = nearest(str(name), list(tasks))
        raise InvalidInputError(name, f"unknown task {name!r}", hint=hint)
    task = tasks[name]
    inputs = [payload["inputs"]] if "inputs" in payload else []
    if task.has_inputs != bool(inputs):
        takes = "takes no" if inputs else "needs"
        raise InvalidInputError(payload, f"task {name!r} {takes} 'inputs'")
    _check_arguments(name, task.run, inputs, options)
    if not task.returns_future:
        return in_background(task.run, *inputs, **options)
    future: Future[Any] = task.run(*inputs, **options)
    return future


def _check_arguments(
    task: str, run: Callable[..., Any], inputs: list[Any], options: Mapping[str, Any]
) -> None:
    """Raise InvalidInputError for options that the task's method does not take or lacks."""
    signature = inspect.signature(run)
    names = list(signature.parameters)[len(inputs) :]
    try:
        signature.bind(*inputs, **options)
    except TypeError as error:
        problem = f"task {task!r} takes the options {', '.join(names)}: {error}"
        raise InvalidInputError(options, problem) from None
