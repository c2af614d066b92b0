"""Groups of options: commands that share options name the group, not each option again.

A group is a dataclass whose fields are options as Typer has them, or groups in turn. `expanded`
makes the function that Typer needs, which has each option as a parameter of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

Parameter = inspect.Parameter


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return the same command for Typer, with its parameters and their fields in their order."""
    own = inspect.signature(command, eval_str=True)

    @wraps(command)
    def called(**given: Any) -> None:
        command(
            **{
                name: _built(each.annotation, given)
                if is_dataclass(each.annotation)
                else given[name]
                for name, each in own.parameters.items()
            }
        )

    parameters = [flat for each in own.parameters.values() for flat in _flat(each)]
    called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # which Typer reads
    return called


def _flat(parameter: Parameter) -> Iterator[Parameter]:
    if not is_dataclass(parameter.annotation):
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    hints = get_type_hints(parameter.annotation, include_extras=True)
    for field in fields(parameter.annotation):
        default = Parameter.empty if field.default is MISSING else field.default
        yield from _flat(
            Parameter(
                field.name, Parameter.KEYWORD_ONLY, annotation=hints[field.name], default=default
            )
        )


def _built(group: Any, given: dict[str, Any]) -> Any:
    hints = get_type_hints(group, include_extras=True)
    return group(
        **{
            field.name: _built(hints[field.name], given)
            if is_dataclass(hints[field.name])
            else given[field.name]
            for field in fields(group)
        }
    )
