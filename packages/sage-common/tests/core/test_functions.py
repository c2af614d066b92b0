from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from sage.common.core import functions
from sage.common.core.context import RuntimeContext
from sage.common.core.errors import RecordTimeoutError
from sage.common.core.functions import AsyncMapFunction, BaseFunction, MapFunction, StopSignal

pytestmark = pytest.mark.timeout(30)


class Remote(AsyncMapFunction):
    def __init__(self, future: Future[Any]) -> None:
        self.future = future

    def submit(self, record: Any) -> Future[Any]:
        return self.future

    def complete(self, record: Any, result: Any) -> Any:
        return record, result


def test_all_names_are_there_and_sorted() -> None:
    assert functions.__all__ == sorted(functions.__all__)
    assert all(hasattr(functions, name) for name in functions.__all__)


NO_BASES = ("BaseFunction", "StopSignal", "UnreadableRecord")


@pytest.mark.parametrize("name", [n for n in functions.__all__ if n not in NO_BASES])
def test_a_base_class_cannot_be_made_without_its_method(name: str) -> None:
    with pytest.raises(TypeError, match="abstract"):
        getattr(functions, name)()


def test_an_async_map_is_a_map_whose_execute_waits() -> None:
    future: Future[Any] = Future()
    function = Remote(future)
    assert isinstance(function, MapFunction)
    threading.Timer(0.01, future.set_result, ["result"]).start()
    assert function.execute("record") == ("record", "result")


def test_execute_raises_the_works_own_error() -> None:
    future: Future[Any] = Future()
    future.set_exception(TimeoutError("of the backend"))
    function = Remote(future)
    function.timeout = 10
    with pytest.raises(TimeoutError, match="of the backend") as caught:
        function.execute("record")
    assert type(caught.value) is TimeoutError


def test_execute_cancels_what_takes_too_long() -> None:
    future: Future[Any] = Future()
    function = Remote(future)
    function.timeout = 0.01
    function.ctx = RuntimeContext(name="remote")
    with pytest.raises(RecordTimeoutError, match=r"operator 'remote' had no result within 0\.01 s"):
        function.execute("record")
    assert future.cancelled()


def test_an_interrupt_of_execute_cancels_the_work() -> None:
    class Interrupted(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            raise KeyboardInterrupt

    future = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        Remote(future).execute("record")
    assert future.cancelled()


def test_a_function_that_forgets_super_init_has_a_context_and_a_logger() -> None:
    class Forgetful(BaseFunction):
        def __init__(self) -> None:
            pass

    function = Forgetful()
    assert function.logger.name == "sage.unbound"
    function.ctx = RuntimeContext(name="mine")
    assert function.logger.name == "sage.mine"
    assert Forgetful().ctx.name == "unbound"


@pytest.mark.parametrize("method", ["call_service", "call_service_async"])
def test_a_function_without_an_environment_says_so(method: str) -> None:
    with pytest.raises(RuntimeError, match="made by hand, not by an environment"):
        getattr(BaseFunction(), method)("llm", 1)


def test_execute_serves_many_threads() -> None:
    class Instant(AsyncMapFunction):
        def submit(self, record: int) -> Future[int]:
            future: Future[int] = Future()
            future.set_result(record + 1)
            return future

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(Instant().execute, range(100))) == list(range(1, 101))


def test_a_stop_signal_shows_its_reason() -> None:
    assert repr(StopSignal("end of file")) == "StopSignal('end of file')"
