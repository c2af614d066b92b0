"""Typer's command and group, without the half second that checking plain values costs.

Typer sends every value, even one that was not given, through pydantic, and importing that takes
longer than all the rest of a short command. A text and a value that is not there need no checking;
everything else goes Typer's way.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Usage errors have no public name of their own; this is the base of the one that has."""


class LightCommand(TyperCommand):
    """A command whose plain values are taken as they are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse them; an error says of which command it is."""
        try:
            return super().parse_args(ctx, args)
        except USAGE_ERROR as error:
            if getattr(error, "ctx", None) is None:
                error.ctx = ctx  # type: ignore[attr-defined]  # as all that click itself raises has
            raise

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options and arguments, the one for help among them."""
        return _lightened(super().get_params(ctx))


class LightGroup(TyperGroup):
    """The same for a group and its own options."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options, the one for help among them."""
        return _lightened(super().get_params(ctx))


def _lightened(params: list[Any]) -> list[Any]:
    for param in params:
        if not isinstance(param.process_value, _Shortcut):
            param.process_value = _Shortcut(param)
    return params


class _Shortcut:
    """Takes a text or a missing value as it is, and leaves all else to the parameter itself."""

    def __init__(self, param: Any) -> None:
        self._param = param
        self._checked = param.process_value
        descriptor = getattr(param, "type_descriptor", None)  # Typer has it since it uses pydantic
        self._takes_text = getattr(descriptor, "annotation", None) is str
        self._is_single = not (param.required or param.multiple or param.nargs != 1)

    def __call__(self, context: typer.Context, value: Any) -> Any:
        is_plain = value is None or (self._takes_text and isinstance(value, str))
        if not (self._is_single and is_plain):
            return self._checked(context, value)
        callback = self._param.callback
        return callback(context, self._param, value) if callback else value
