"""What a call reaches, what it refuses, and how errors arrive."""

from __future__ import annotations

import pickle
import sqlite3
import traceback
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from sage.common.core.functions import MapFunction
from sage.common.service import (
    BaseService,
    ServiceClosedError,
    ServiceMethodNotFoundError,
    ServiceNotFoundError,
)
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.service import ServiceCallProxy, ServiceFactory

pytestmark = pytest.mark.usefixtures("each_environment")


class Calculator(BaseService):
    """Forgets super().__init__(), as many a service will."""

    def __init__(self, start: int = 0, *, name: str = "calculator") -> None:
        self.total = start
        self.label = name

    def process(self, payload: Any) -> Any:
        return payload

    def add(self, first: int, second: int = 1) -> int:
        return first + second

    def fail(self) -> None:
        raise KeyError("no such entry")

    def time_out(self) -> None:
        raise TimeoutError("the disk is slow")

    def greet(self, *, name: str) -> str:
        return f"hello {name} from {self.label}"

    def where(self) -> str:
        return self.ctx.name

    def _secret(self) -> str:
        return "secret"


class Plain(BaseService):
    """Has no process()."""


@pytest.fixture
def env() -> Any:
    with LocalEnvironment("calls") as env:
        env.register_service("calculator", Calculator, 5, name="mine")
        env.register_service("plain", Plain)
        yield env


def test_a_call_without_a_method_goes_to_process(env: LocalEnvironment) -> None:
    assert env.call_service("calculator", {"a": 1}) == {"a": 1}


@pytest.mark.parametrize("timeout", [None, 10])
def test_arguments_reach_the_method(env: LocalEnvironment, timeout: float | None) -> None:
    assert env.call_service("calculator", 2, method="add", timeout=timeout) == 3
    assert env.call_service("calculator", 2, second=5, method="add", timeout=timeout) == 7


@pytest.mark.parametrize("timeout", [None, 10])
def test_an_argument_of_the_service_may_be_called_name(
    env: LocalEnvironment, timeout: float | None
) -> None:
    greeting = env.call_service("calculator", method="greet", name="you", timeout=timeout)
    assert greeting == "hello you from mine"


def test_an_asynchronous_call_returns_a_future(env: LocalEnvironment) -> None:
    assert env.service_manager.closed is False
    env.service("calculator")
    future = env.service_manager.call_service_async("calculator", 2, second=5, method="add")
    assert isinstance(future, Future)
    assert future.result(10) == 7


def test_a_service_knows_the_name_it_was_registered_by(env: LocalEnvironment) -> None:
    assert env.call_service("calculator", method="where") == "calculator"


def test_an_unknown_service_names_the_nearest(env: LocalEnvironment) -> None:
    for call in (
        lambda: env.call_service("calculater"),
        lambda: env.service("calculater"),
        lambda: env.service_manager.capacity("calculater"),
        lambda: env.service_manager.call_service_async("calculater").result(10),
    ):
        with pytest.raises(ServiceNotFoundError, match="did you mean 'calculator'"):
            call()
    with pytest.raises(ServiceNotFoundError, match="valid: calculator, plain"):
        env.call_service("xyz")
    with pytest.raises(LookupError):
        env.call_service("xyz")


def test_an_unknown_method_names_the_nearest(env: LocalEnvironment) -> None:
    with pytest.raises(ServiceMethodNotFoundError, match="has no method 'ad'; did you mean 'add'"):
        env.call_service("calculator", method="ad")
    with pytest.raises(ServiceMethodNotFoundError, match="valid: add, fail, greet, process"):
        env.call_service("calculator", method="xyz")


@pytest.mark.parametrize(
    "method",
    "setup start stop cleanup open close _secret __init__ __class__ total label ctx logger "
    "capacity max_concurrency call_service call_service_async".split(),
)
def test_lifecycle_private_names_and_attributes_cannot_be_called(
    env: LocalEnvironment, method: str
) -> None:
    with pytest.raises(ServiceMethodNotFoundError, match=f"no method '{method}'"):
        env.call_service("calculator", method=method)
    with pytest.raises(AttributeError):
        env.service_manager.call_service_async("calculator", method=method).result(10)


@pytest.mark.parametrize("timeout", [None, 10])
@pytest.mark.parametrize(
    ("method", "error", "message"),
    [("fail", KeyError, "no such entry"), ("time_out", TimeoutError, "the disk is slow")],
)
def test_an_exception_arrives_as_it_was_raised(
    env: LocalEnvironment,
    method: str,
    error: type[Exception],
    message: str,
    timeout: float | None,
) -> None:
    with pytest.raises(error, match=message) as caught:
        env.call_service("calculator", method=method, timeout=timeout)
    assert type(caught.value) is error
    assert method in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_wrong_arguments_are_the_callers_type_error(env: LocalEnvironment) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'third'"):
        env.call_service("calculator", 1, third=3, method="add")


def test_a_service_without_process_asks_for_a_method(env: LocalEnvironment) -> None:
    with pytest.raises(NotImplementedError, match=r"Plain defines no process\(\); name a method="):
        env.call_service("plain", 1)
    with pytest.raises(NotImplementedError, match="service 'plain' has: "):
        env.call_service("plain")
    with pytest.raises(NotImplementedError, match="did you mean method= by methd='get'"):
        env.call_service("plain", methd="get")


def test_what_a_service_keeps_is_no_method_though_it_can_be_called(env: LocalEnvironment) -> None:
    class Keeps(BaseService):
        row_type = dict  # a class can be called, too

        def __init__(self) -> None:
            self.connection = sqlite3.connect(":memory:")
            self.double = partial(int.__mul__, 2)

        def find(self) -> None:
            """Find nothing."""

        def cleanup(self) -> None:
            self.connection.close()

    env.register_service("keeps", Keeps)
    with pytest.raises(NotImplementedError, match=r"'keeps' has: double, find$"):
        env.call_service("keeps")
    assert env.call_service("keeps", 4, method="double") == 8


def test_a_method_in_the_place_of_the_first_argument_is_told(env: LocalEnvironment) -> None:
    note = ["'add' is a method of service 'calculator', and was passed as an argument of "
            "process(); name it by method='add'"]  # fmt: skip
    for call in (
        lambda: env.call_service("calculator", "add", 1),
        lambda: env.call_service("calculator", "add", 1, timeout=10),
        lambda: env.service_manager.call_service_async("calculator", "add", 1).result(10),
    ):
        with pytest.raises(TypeError, match="3 were given") as caught:
            call()
        assert caught.value.__notes__ == note
    assert env.call_service("calculator", "add") == "add"  # a payload like any other
    with pytest.raises(TypeError) as caught:
        env.call_service("calculator", "no method", 1)
    assert not hasattr(caught.value, "__notes__")


def test_arguments_that_do_not_fit_are_found_at_registration(env: LocalEnvironment) -> None:
    class Prices(BaseService):
        def __init__(self, path: str, *, currency: str = "EUR") -> None:
            self.path, self.currency = path, currency

    says = r"register_service\(\) builds Prices\(path, \*, currency='EUR'\): missing.*'path'"
    with pytest.raises(TypeError, match=says):
        env.register_service("prices", Prices)
    with pytest.raises(TypeError, match="unexpected keyword argument 'curency'"):
        env.register_service("prices", Prices, "prices.csv", curency="USD")
    env.register_service("prices", Prices, "prices.csv", currency="USD")


def test_a_proxy_has_the_services_methods(env: LocalEnvironment) -> None:
    proxy = env.service("calculator")
    assert proxy.add(1, second=2) == 3
    assert proxy.add(1, second=2, timeout=10) == 3
    assert proxy.process("x") == "x"
    assert proxy.call_async(1, 2, method="add").result(10) == 3
    assert repr(proxy) == "ServiceCallProxy('calculator')"
    with pytest.raises(ServiceMethodNotFoundError, match="did you mean 'add'"):
        proxy.addd(1)
    with pytest.raises(AttributeError):
        proxy._secret()


def test_a_function_calls_services_through_its_context(env: LocalEnvironment) -> None:
    class Adds(MapFunction):
        def execute(self, record: int) -> int:
            by_call: int = self.call_service("calculator", record, method="add")
            by_future = self.call_service_async("calculator", record, method="add")
            by_proxy = ServiceCallProxy(self.ctx.services, "calculator").add(record)
            assert by_call == by_future.result(10) == by_proxy
            return by_call

    out: list[int] = []
    env.from_collection(range(5)).map(Adds).sink(out.append)
    env.submit()
    assert out == [1, 2, 3, 4, 5]


def test_an_unknown_service_in_a_function_fails_the_pipeline(env: LocalEnvironment) -> None:
    class Misspelt(MapFunction):
        def execute(self, record: int) -> Any:
            return self.call_service("calculater", record)

    env.from_collection(range(5)).map(Misspelt)
    with pytest.raises(ServiceNotFoundError, match="did you mean 'calculator'"):
        env.submit()


def test_a_function_made_by_hand_says_that_it_has_no_services() -> None:
    class Calls(MapFunction):
        def execute(self, record: Any) -> Any:
            return self.call_service("calculator", record)

    with pytest.raises(RuntimeError, match="cannot call service 'calculator': this object was"):
        Calls().execute(1)


def test_a_twin_that_returns_no_future_says_so(env: LocalEnvironment) -> None:
    class Coroutines(BaseService):
        def answer(self) -> int:
            return 1

        def answer_async(self) -> str:
            return "not a future"

    with LocalEnvironment("twins") as env:
        env.register_service("twins", Coroutines)
        with pytest.raises(TypeError, match=r"answer_async\(\) of service 'twins' must return a"):
            env.call_service("twins", method="answer")


def test_calls_after_close_say_so(env: LocalEnvironment) -> None:
    proxy = env.service("calculator")
    env.close()
    for call in (
        lambda: env.call_service("calculator", 1),
        lambda: env.service_manager.call_service("calculator", 1),
        lambda: env.service_manager.call_service("calculator", 1, timeout=1),
        lambda: env.service_manager.call_service_async("calculator", 1).result(10),
        lambda: proxy.add(1),
        lambda: env.service("calculator").add(1),
    ):
        with pytest.raises(ServiceClosedError, match="'calculator' takes no calls: it has been cl"):
            call()


def test_calls_before_the_start_say_so(env: LocalEnvironment) -> None:
    with pytest.raises(ServiceClosedError, match="it has not been started yet"):
        env.service_manager.call_service("calculator", 1)


def test_what_is_no_service_is_refused(env: LocalEnvironment) -> None:
    no_service: Any = dict
    with pytest.raises(TypeError, match=r"subclass of BaseService, not <class 'dict'>"):
        env.register_service("dict", no_service)
    with pytest.raises(TypeError, match="subclass of BaseService, not"):
        ServiceFactory(service_class=no_service())


def test_a_name_is_registered_once_and_before_the_start(env: LocalEnvironment) -> None:
    with pytest.raises(ValueError, match="'plain' is already registered; choose another name"):
        env.register_service("plain", Plain)
    env.service("plain")
    with pytest.raises(RuntimeError, match="cannot register service 'late'"):
        env.register_service("late", Plain)


def test_a_factory_is_a_picklable_recipe() -> None:
    factory = ServiceFactory(service_class=Calculator, args=(5,), kwargs={"name": "mine"})
    again = pickle.loads(pickle.dumps(factory))
    assert again == factory
    service = again.create()
    assert (service.total, service.label) == (5, "mine")
    assert service is not again.create()
