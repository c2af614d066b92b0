"""ToolBox: the functions that a model's calls reach."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sage.common.components.sage_vllm.requests.chat.tools import (
    arguments_of,
    tool_functions,
    tool_schemas,
)
from sage.common.components.sage_vllm.requests.chat.typed_schema import problems_of
from sage.common.core.errors import nearest


class MisusedToolError(ValueError):
    """A model asks for a tool that there is not, or with arguments that it does not accept."""


class ToolBox:
    """Runs calls of tools, each checked before.

    Args:
        tools: functions; raises ValueError for one of which there is only the schema.
    """

    def __init__(self, tools: Sequence[Any]) -> None:
        self._functions = tool_functions(tools)
        for schema in tool_schemas(tools):
            name = schema["function"]["name"]
            if name not in self._functions:
                raise ValueError(
                    f"run_tools=True cannot run {name!r}, of which there is only the schema; pass "
                    f"the function, or run_tools=False to get its calls in the result"
                )

    def run(self, name: str, arguments: Any) -> str:
        """Call a tool and return what the model is told of its result.

        Raises MisusedToolError, and what the tool raises.
        """
        result = result_of(self._checked(name, arguments))
        if isinstance(result, str):
            return result
        try:
            return json.dumps(result, ensure_ascii=False)
        except (TypeError, ValueError):  # an object of a class: pydantic knows most of them
            return _as_json(result)

    def _checked(self, name: str, arguments: Any) -> Callable[[], Any]:
        from pydantic import ValidationError
        from pydantic_core import ArgsKwargs

        function = self._functions.get(name)
        if function is None:
            hint = nearest(name, list(self._functions))
            raise MisusedToolError(f"there is no tool {name!r}; {hint}")
        if not isinstance(arguments, Mapping):
            raise MisusedToolError(f"the arguments of {name} are no JSON object: {arguments!r}")
        try:
            args, kwargs = arguments_of(function).validate_python(ArgsKwargs((), dict(arguments)))
        except ValidationError as error:
            problem = f"{name} does not accept these arguments: {problems_of(error)}"
            raise MisusedToolError(problem) from None
        return partial(function, *args, **kwargs)


def result_of(function: Callable[[], Any]) -> Any:
    """Return what a function returns, be it plain or ``async def``."""
    result = function()
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def _as_json(result: Any) -> str:
    from pydantic_core import to_json

    return str(to_json(result, fallback=str).decode())
