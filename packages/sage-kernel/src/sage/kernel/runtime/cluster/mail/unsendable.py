"""What keeps a value from other processes, by its name in the program."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any

from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.cluster.mail.carriage import to_bytes

_DEEPEST = 12  # parts of parts


def call_bytes(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, of: str = "") -> bytes:
    """Return a call of another process as bytes; an error of pickling it names the argument.

    ``of`` is the service whose method it is.
    """
    try:
        return to_bytes((name, tuple(args), dict(kwargs)))
    except Exception as error:
        with suppress(Exception):  # what is wrong with it may be wrong here too
            part = unsendable_part(SimpleNamespace(args=args, kwargs=kwargs))
            called = f"{of}.{name}()" if of else f"{name}()"
            annotate(error, f"{called} runs in another process, and {part} cannot be sent there")
        raise


def unsendable_part(value: Any) -> str | None:
    """Return what keeps a value from being pickled, as ``"env (RayEnvironment)"``; None if nothing.

    It is the smallest part that is named in its user's code: a variable that a function uses, an
    argument, an attribute or item of these. What is private in it is not named.
    """
    if _can_be_sent(value):
        return None
    path = ""
    for _ in range(_DEEPEST):
        found = next((each for each in _parts(value) if not _can_be_sent(each[1])), None)
        if found is None:
            break
        step, value = found
        path = step if step.isidentifier() else path + step
    return f"{path.removeprefix('.') or 'what it was given'} ({type(value).__name__})"


def _can_be_sent(value: Any) -> bool:
    try:
        to_bytes(value)
    except Exception:  # noqa: BLE001 - the classes are users'
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Return what is pickled with a value: variables by their names, other parts by the way there.

    Of what another process imports nothing is pickled; such a value can be sent.
    """
    if isinstance(value, FunctionType):
        yield from inspect.getclosurevars(value).nonlocals.items()
        used = _global_names(value.__code__)
        yield from ((name, each) for name, each in value.__globals__.items() if name in used)
        parameters = inspect.signature(value, follow_wrapped=False).parameters
        yield from ((name, each.default) for name, each in parameters.items())
    elif isinstance(value, MethodType):
        yield "self", value.__self__
    elif isinstance(value, partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, type):
        yield from ((base.__name__, base) for base in value.__bases__)
        yield from ((n, each) for n, each in vars(value).items() if n not in _NOT_PICKLED)
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{place}]", each) for place, each in enumerate(value))
    else:
        attributes = getattr(value, "__dict__", {})
        yield from ((f".{name}", each) for name, each in attributes.items() if name[0] != "_")


_NOT_PICKLED = ("__dict__", "__weakref__")  # of a class


def _global_names(code: CodeType) -> set[str]:
    """Return the global variables that a function uses, or functions inside of it."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return names.union(*map(_global_names, inner))
