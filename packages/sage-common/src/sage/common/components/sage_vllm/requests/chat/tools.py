"""Tools: Python functions that a model may ask for, and the schemas that it is told of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.core.errors import PackageNotInstalledError

_SHAPE = (
    "a tool is a function, or {'type': 'function', 'function': {'name': ..., 'description': ..., "
    "'parameters': <JSON schema>}}"
)


def is_tools(value: Any) -> bool:
    """Whether a value has the shape of a list of tools; ``tool_schemas`` looks at each."""
    return isinstance(value, list | tuple) and all(
        callable(tool) or isinstance(tool, Mapping) for tool in value
    )


def tool_schemas(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the tools as models are told of them, in OpenAI's form.

    Raises InvalidOptionError for what is no tool, and for two of one name.
    """
    schemas = [_schema(tool) for tool in tools]
    names = [schema["function"]["name"] for schema in schemas]
    for name in names:
        if names.count(name) > 1:
            raise InvalidOptionError("tools", name, f"two tools are named {name!r}")
    return schemas


def tool_functions(tools: Sequence[Any]) -> dict[str, Callable[..., Any]]:
    """Return those of the tools that are functions, by their names."""
    return {_name(tool): tool for tool in tools if callable(tool)}


@functools.lru_cache(maxsize=1024)
def arguments_of(function: Callable[..., Any]) -> Any:
    """Return pydantic's TypeAdapter of a function's arguments.

    It makes of ``ArgsKwargs`` what the function is called with: a tuple and a dict.
    """
    try:
        from pydantic import TypeAdapter
    except ImportError as error:
        extra = "isage-common[testing]"
        raise PackageNotInstalledError("pydantic", extra, "for functions as tools") from error

    def arguments(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    wrapped: Any = functools.wraps(function)(arguments)
    wrapped.__annotations__ = dict(getattr(function, "__annotations__", {}))
    return TypeAdapter(wrapped)


def _schema(tool: Any) -> dict[str, Any]:
    if isinstance(tool, Mapping):
        function = tool.get("function")
        named = isinstance(function, Mapping) and isinstance(function.get("name"), str)
        if tool.get("type", "function") != "function" or not named:
            raise InvalidOptionError("tools", tool, f"{tool!r} is no tool", hint=_SHAPE)
        return {"type": "function", **tool}
    return _schema_of_function(tool)


@functools.lru_cache(maxsize=1024)
def _schema_of_function(function: Callable[..., Any]) -> dict[str, Any]:
    from pydantic.errors import PydanticUserError

    name = _name(function)
    try:
        parameters = arguments_of(function).json_schema()
    except (PydanticUserError, NameError, TypeError, ValueError) as error:
        why = getattr(error, "message", error)  # without pydantic's link
        problem = f"no schema can be made of the arguments of {name}: {why}"
        hint = "annotate each of them with a type that JSON has, or pass the tool's schema"
        raise InvalidOptionError("tools", function, problem, hint=hint) from error
    if parameters.get("type") != "object":  # it has arguments without names
        problem = f"the arguments of {name} must all have names"
        raise InvalidOptionError("tools", function, problem, hint="leave out *args and the /")
    described = {"name": name, "description": inspect.getdoc(function) or ""}
    return {"type": "function", "function": {**described, "parameters": parameters}}


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or name == "<lambda>":
        problem = f"{function!r} has no name that a model could call it by"
        raise InvalidOptionError("tools", function, problem, hint="define it with def")
    return name
