"""checks_keywords: an argument's misspelt name is answered with the right one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from sage.common.core.errors import nearest

_P = ParamSpec("_P")
_T = TypeVar("_T")


def checks_keywords(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a function or method say which of its arguments an unknown one is near to.

    Python 3.11 says only that the name is unknown.
    """
    code = function.__code__
    names = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    known = [name for name in names if name != "self"]

    @wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for name in kwargs:
            if name not in known:
                hint = nearest(name, known)
                called = function.__name__.removesuffix("_async")
                raise TypeError(f"{called}() has no argument {name!r}; {hint}")
        return function(*args, **kwargs)

    return checked
