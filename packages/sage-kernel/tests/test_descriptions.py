from __future__ import annotations

import operator
import pickle
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from sage.common.core.functions import (
    AsyncMapFunction,
    BatchFunction,
    FilterFunction,
    MapFunction,
    SinkFunction,
)
from sage.kernel.api import DataStream, LocalEnvironment


class Shout(MapFunction):
    def __init__(self, mark: str = "!") -> None:
        self.mark = mark

    def execute(self, record: str) -> str:
        return record + self.mark


class Long(FilterFunction):
    def execute(self, record: str) -> bool:
        return len(record) > 3


class Words(BatchFunction):
    def __init__(self, *words: str) -> None:
        self.words = iter(words)

    def execute(self) -> str | None:
        return next(self.words, None)


@pytest.fixture
def env() -> LocalEnvironment:
    return LocalEnvironment("described")


@pytest.fixture
def stream(env: LocalEnvironment) -> DataStream:
    return env.from_collection(["a", "b"])


def test_an_instance_is_refused_and_the_class_asked_for(stream: DataStream) -> None:
    instance: Any = Shout()
    with pytest.raises(TypeError, match=r"map\(\) takes the class Shout .*not an instance"):
        stream.map(instance)


@pytest.mark.parametrize("method", ["map", "flatmap", "filter", "keyby", "sink"])
def test_what_cannot_be_called_is_refused(stream: DataStream, method: str) -> None:
    with pytest.raises(TypeError, match=rf"{method}\(\) takes a function class or a callable"):
        getattr(stream, method)("upper")


@pytest.mark.parametrize(
    ("method", "function", "right"),
    [
        ("filter", Shout, "map"),
        ("flatmap", AsyncMapFunction, "map"),
        ("sink", Shout, "map"),
        ("map", Long, "filter"),
        ("keyby", Long, "filter"),
    ],
)
def test_a_class_of_another_kind_is_refused_with_its_method(
    stream: DataStream, method: str, function: type, right: str
) -> None:
    with pytest.raises(TypeError, match=rf"{method}\(\) takes .*use {right}\(\)"):
        getattr(stream, method)(function)


def test_operators_of_one_name_are_told_apart() -> None:
    env = LocalEnvironment()
    numbers = env.from_collection([4, 2], name="n")
    halves = numbers.map(lambda n: n / 2, name="n").map(lambda n: n / 2)
    halves.map(lambda n: 1 / (n - 1), name="n 2", on_error="skip").sink(lambda _: None)
    env.submit()
    read = env.metrics()
    names = ["n", "n 2", "<lambda>", "n 2 2", "<lambda> 2"]
    assert [operator.name for operator in read.operators] == names
    assert read.operator("n 2 2").skipped == read.operator("<lambda> 2").records_in == 1


@pytest.mark.parametrize("parallelism", [0, -1, 1.5, "2", None])
def test_bad_parallelism_is_refused(stream: DataStream, parallelism: Any) -> None:
    with pytest.raises(ValueError, match=f"at least 1, not {parallelism!r}"):
        stream.map(str, parallelism=parallelism)


def test_an_unknown_on_error_names_the_nearest(stream: DataStream) -> None:
    with pytest.raises(ValueError, match="not 'skipp'; did you mean 'skip'"):
        stream.map(str, on_error="skipp")


@pytest.mark.parametrize("on_error", [None, 7, Shout])
def test_on_error_that_is_no_sink_is_refused(stream: DataStream, on_error: Any) -> None:
    with pytest.raises(TypeError, match=r"sink\(\) takes a"):
        stream.map(str, on_error=on_error)


def test_an_unknown_argument_names_the_nearest() -> None:
    env = LocalEnvironment()
    with pytest.raises(TypeError, match=r"from_collection\(\) has no argument 'nam'; did you"):
        env.from_collection([1], nam="numbers")  # type: ignore[call-arg]
    stream = env.from_collection([1])
    with pytest.raises(TypeError, match=r"collect\(\) .* 'progres'; did you mean 'progress'"):
        stream.collect(progres=True)  # type: ignore[call-arg]
    assert [operator.kind for operator in env.operators] == ["source"]  # it can be collected yet
    with pytest.raises(TypeError, match=r"submit\(\) .* 'chekpoint'; did you mean 'checkpoint'"):
        env.submit(chekpoint="folder")  # type: ignore[call-arg]


def test_an_unknown_configuration_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'chanel_capacity'; did you mean 'channel_capacity'"):
        LocalEnvironment(config={"chanel_capacity": 1})


@pytest.mark.parametrize("capacity", [0, -5, 1.5, "8"])
def test_a_bad_channel_capacity_is_refused(capacity: Any) -> None:
    with pytest.raises(ValueError, match=f"from 1 on, not {capacity!r}"):
        LocalEnvironment(config={"channel_capacity": capacity})


@pytest.mark.parametrize("timeout", [-1, "10", None, float("nan"), float("inf")])
def test_a_bad_close_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(ValueError, match=f"of seconds from 0 on, not {timeout!r}"):
        LocalEnvironment(config={"close_timeout": timeout})


def test_an_environment_without_a_stream_says_how_to_begin_one(env: LocalEnvironment) -> None:
    with pytest.raises(RuntimeError, match=r"'described' has no stream; begin one with"):
        env.submit()


def test_a_second_submit_is_refused(env: LocalEnvironment, stream: DataStream) -> None:
    env.submit()
    with pytest.raises(RuntimeError, match="submitted already; make a new one"):
        env.submit()


def test_union_takes_streams_of_the_same_environment(stream: DataStream) -> None:
    with pytest.raises(ValueError, match="same environment"):
        stream.union(LocalEnvironment("other").from_collection([1]))
    with pytest.raises(TypeError, match="at least one other"):
        stream.union()
    not_a_stream: Any = [1]
    with pytest.raises(TypeError, match=r"takes streams, not \[1\]"):
        stream.union(not_a_stream)


def test_constructor_arguments_that_do_not_fit_name_the_operator(
    env: LocalEnvironment, stream: DataStream
) -> None:
    stream.map(Shout, marc="?", name="loud")
    with pytest.raises(TypeError, match="unexpected keyword argument 'marc'") as caught:
        env.submit()
    assert caught.value.__notes__ == ["while building operator 'loud'"]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Shout, "Shout"),
        (len, "len"),
        (operator.itemgetter(0), "itemgetter"),
        (partial(int, base=8), "int"),
        (partial(Shout, "?"), "Shout"),
    ],
)
def test_an_operator_is_named_after_its_function(
    stream: DataStream, function: Callable[..., Any], name: str
) -> None:
    assert stream.map(function).operator.name == name
    assert stream.map(function, name="mine").operator.name == "mine"


def test_a_partial_of_a_class_is_the_class_with_its_arguments(env: LocalEnvironment) -> None:
    out: list[str] = []
    stream = env.from_source(partial(Words, "a", "longer"), "longest").filter(partial(Long))
    stream.map(partial(Shout, mark="?")).map(partial(Shout, mark="?"), mark=".").sink(out.append)
    env.submit()
    assert out == ["longer?.", "longest?."]
    instance: Any = partial(Long)
    with pytest.raises(TypeError, match=r"map\(\) takes .*use filter\(\)"):
        stream.map(instance)


async def coroutine(record: Any) -> Any:
    return record


async def generator(record: Any) -> Any:
    yield record


class Called:
    async def __call__(self, record: Any) -> Any:
        return record


@pytest.mark.parametrize("method", ["keyby", "sink", "from_source"])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (coroutine, "coroutine"),
        (generator, "generator"),
        (partial(coroutine, 1), "coroutine"),
        (Called(), "Called"),
        (partial(Called(), 1), "Called"),
    ],
)
def test_async_functions_are_refused_with_the_way_out(
    env: LocalEnvironment, stream: DataStream, method: str, function: Any, name: str
) -> None:
    expected = rf"cannot run {name}, which is `async def`.*map\(\), flatmap\(\) and filter\(\) run"
    with pytest.raises(TypeError, match=expected):
        getattr(env if method == "from_source" else stream, method)(function)
    with pytest.raises(TypeError, match=expected):
        stream.map(str, on_error=function)


class AsyncSink(SinkFunction):
    async def execute(self, record: str) -> None: ...


class Submits(AsyncMapFunction):
    def submit(self, record: str) -> Future[str]:
        raise AssertionError(record)

    async def execute(self, record: str) -> str:
        return record


@pytest.mark.parametrize(
    ("method", "function", "says"),
    [
        ("sink", AsyncSink, "cannot run AsyncSink, which is `async def`"),
        ("map", Submits, r"cannot run Submits, which is `async def`: .*runs submit\(\)"),
        ("map", partial(generator), r"cannot run generator, .* Use flatmap\(\)"),
        ("filter", generator, r"cannot run generator, .* Use flatmap\(\)"),
    ],
)
def test_what_no_coroutine_can_be_is_refused(
    stream: DataStream, method: str, function: Any, says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        getattr(stream, method)(function)


def test_a_description_is_plain_data_that_pickles(
    env: LocalEnvironment, stream: DataStream
) -> None:
    loud = stream.map(Shout, mark="?", parallelism=2, on_error="skip", name="loud")
    loud.union(stream).filter(Long, on_error=print).keyby(len).flatmap(list).print("got")
    assert pickle.loads(pickle.dumps(env.operators)) == env.operators


def test_a_pickled_description_runs_elsewhere(
    env: LocalEnvironment, capsys: pytest.CaptureFixture[str]
) -> None:
    env.from_collection(["a"]).map(Shout, mark="?").print()
    elsewhere = LocalEnvironment("elsewhere")
    elsewhere.operators = pickle.loads(pickle.dumps(env.operators))
    elsewhere.submit()
    assert capsys.readouterr().out == "a?\n"
