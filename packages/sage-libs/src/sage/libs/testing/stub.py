"""StubService: stands in for a service of your own in tests."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from sage.common.service import BaseService


class StubCall(NamedTuple):
    """One call that a StubService had."""

    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class StubService(BaseService):
    """Answers calls as it is told, and keeps them in ``calls``.

    Args:
        answers: what each method does, by its name: a function is called with what the call has, an
            exception is raised, anything else is returned. ``process`` is what a call without
            ``method=`` is for.

    Example::

        with StubService(lookup={"tea": 3}.get, refund=PermissionError("ask Ada")) as prices:
            env.register_service("prices", prices)
            ...
        assert prices.calls == [("lookup", ("tea",), {})]
    """

    max_concurrency = None

    def __init__(self, **answers: Any) -> None:
        self.calls: list[StubCall] = []
        for method, answer in answers.items():
            if method != "process" and (method.startswith("_") or hasattr(self, method)):
                raise ValueError(
                    f"a service cannot have {method}() for its callers: the name is taken or "
                    f"private; choose another"
                )
            setattr(self, method, partial(self._answer, method, answer))

    def _answer(self, method: str, answer: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(StubCall(method, args, kwargs))
        is_error_class = isinstance(answer, type) and issubclass(answer, BaseException)
        if is_error_class or isinstance(answer, BaseException):
            raise answer
        return answer(*args, **kwargs) if callable(answer) else answer
