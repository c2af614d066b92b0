"""An operator that raises on the 100th of 1,000 records, under each choice of on_error."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction, SinkFunction, UnreadableRecord
from sage.common.service import BaseService, ServiceNotFoundError
from sage.kernel.api import DataStream, LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord

pytestmark = pytest.mark.usefixtures("each_environment")

BAD = 99


class BadRecordError(Exception):
    pass


def check(record: int) -> None:
    if record == BAD:
        raise BadRecordError(f"cannot take {record}")


def map_it(record: int) -> int:
    check(record)
    return record


def in_range(record: int) -> bool:
    return map_it(record) >= 0


def in_a_list(record: int) -> list[int]:
    return [map_it(record)]


def explode_it(record: int) -> Iterator[int]:
    yield record
    check(record)


class FailsToSubmit(AsyncMapFunction):
    def submit(self, record: int) -> Future[int]:
        check(record)
        future: Future[int] = Future()
        future.set_result(record)
        return future


class FutureFails(AsyncMapFunction):
    def submit(self, record: int) -> Future[int]:
        future: Future[int] = Future()
        try:
            future.set_result(map_it(record))
        except BadRecordError as error:
            future.set_exception(error)
        return future


class FailsToComplete(FailsToSubmit):
    def submit(self, record: int) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(record)
        return future

    def complete(self, record: int, result: int) -> int:
        return map_it(record)


class Unordered(FutureFails):
    ordered = False


Attach = Callable[..., DataStream | None]


def through(method: str, function: Callable[..., Any]) -> Attach:
    def attach(stream: DataStream, out: list[Any], **options: Any) -> None:
        getattr(stream, method)(function, name="checked", **options).sink(out.append)

    return attach


def into_sink(stream: DataStream, out: list[Any], **options: Any) -> None:
    def sink(record: int) -> None:
        check(record)
        out.append(record)

    stream.sink(sink, name="checked", **options)


OPERATORS = {
    "map": through("map", map_it),
    "parallel map": partial(through("map", map_it), parallelism=2),
    "parallel filter": partial(through("filter", in_range), parallelism=2),
    "parallel flatmap": partial(through("flatmap", in_a_list), parallelism=2),
    "filter": through("filter", in_range),
    "flatmap": through("flatmap", in_a_list),
    "keyby": through("keyby", map_it),
    "sink": into_sink,
    "async submit": through("map", FailsToSubmit),
    "async future": through("map", FutureFails),
    "async complete": through("map", FailsToComplete),
    "async unordered": through("map", Unordered),
}
every_operator = pytest.mark.parametrize("attach", OPERATORS.values(), ids=OPERATORS)


def run(attach: Attach, **options: Any) -> tuple[LocalEnvironment, list[Any], BaseException | None]:
    env = LocalEnvironment("on-error")
    out: list[Any] = []
    attach(env.from_collection(range(1000)), out, **options)
    try:
        env.submit()
    except (BadRecordError, OSError) as error:
        return env, out, error
    return env, out, None


@every_operator
def test_raise_stops_the_pipeline_with_the_operators_own_error(attach: Attach) -> None:
    env, out, error = run(attach)
    assert type(error) is BadRecordError
    assert ", in check\n" in "".join(traceback.format_exception(error))  # a worker's is its cause
    assert error.__notes__ == ["in operator 'checked' on record 99"]
    assert env.failure == FailedRecord(operator="checked", record=BAD, error=error)
    assert BAD not in out


@every_operator
def test_skip_logs_the_record_and_goes_on(attach: Attach, caplog: pytest.LogCaptureFixture) -> None:
    env, out, error = run(attach, on_error="skip")
    assert error is None
    assert env.failure is None
    assert sorted(out) == [x for x in range(1000) if x != BAD]
    (line,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert line.getMessage() == (
        "skipped BadRecordError('cannot take 99'): in operator 'checked' on record 99"
    )


@every_operator
def test_a_callable_receives_the_failed_record(attach: Attach) -> None:
    letters: list[FailedRecord] = []
    _, out, error = run(attach, on_error=letters.append)
    assert error is None
    assert sorted(out) == [x for x in range(1000) if x != BAD]
    (letter,) = letters
    assert (letter.operator, letter.record, letter.attempts) == ("checked", BAD, 1)
    assert type(letter.error) is BadRecordError


class DeadLetters(SinkFunction):
    written: list[Any]

    def setup(self) -> None:
        self.letters: list[FailedRecord] = []

    def execute(self, record: FailedRecord) -> None:
        self.letters.append(record)

    def cleanup(self) -> None:
        type(self).written = [(letter.record, letter.attempts) for letter in self.letters]


@every_operator
def test_a_sink_class_receives_the_failed_record_and_is_set_up_and_cleaned_up(
    attach: Attach,
) -> None:
    _, out, error = run(attach, on_error=DeadLetters)
    assert error is None
    assert len(out) == 999
    assert DeadLetters.written == [(BAD, 1)]


@every_operator
def test_a_dead_letter_sink_that_raises_stops_the_pipeline(attach: Attach) -> None:
    def full(_: FailedRecord) -> None:
        raise OSError("no space left")

    env, _, error = run(attach, on_error=full)
    assert type(error) is OSError
    (note,) = error.__notes__
    assert note == (
        "raised by the dead-letter sink, which was handed BadRecordError('cannot take 99') "
        "in operator 'checked' on record 99"
    )
    assert env.failure is not None
    assert (env.failure.operator, env.failure.record) == ("checked", BAD)
    assert isinstance(error.__cause__, BadRecordError)


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("method", ["map", "filter", "flatmap", "keyby", "sink"])
@pytest.mark.parametrize("on_error", ["raise", "skip", print])
def test_system_exit_in_a_function_is_never_skipped(
    method: str, stop: type[BaseException], on_error: Any
) -> None:
    def leave(record: int) -> int:
        if record == BAD:
            raise stop(3)
        return record

    def leave_many(record: int) -> Iterator[int]:
        yield leave(record)

    env = LocalEnvironment("exit")
    function = leave_many if method == "flatmap" else leave
    stream = env.from_collection(range(1000)).map(lambda x: x)
    getattr(stream, method)(function, name="leaver", on_error=on_error)
    with pytest.raises(stop):
        env.submit()
    assert env.failure is not None
    assert (env.failure.operator, env.failure.record) == ("leaver", BAD)


@pytest.mark.parametrize("cls", [FutureFails, FailsToSubmit, FailsToComplete])
def test_system_exit_of_an_async_map_is_never_skipped(
    cls: type[AsyncMapFunction],
) -> None:
    class Leaves(AsyncMapFunction):
        def submit(self, record: int) -> Future[int]:
            if cls is FailsToSubmit and record == BAD:
                raise SystemExit(3)
            future: Future[int] = Future()
            if cls is FutureFails and record == BAD:
                future.set_exception(SystemExit(3))
            else:
                future.set_result(record)
            return future

        def complete(self, record: int, result: int) -> int:
            if record == BAD:
                raise SystemExit(3)
            return result

    env = LocalEnvironment("exit")
    env.from_collection(range(1000)).map(Leaves, on_error="skip")
    with pytest.raises(SystemExit):
        env.submit()
    assert env.failure is not None
    assert (env.failure.operator, env.failure.record) == ("Leaves", BAD)


def test_what_is_no_records_error_is_never_skipped() -> None:
    class Asks(AsyncMapFunction):
        def submit(self, record: int) -> Future[Any]:
            return self.call_service_async("prizes", record)

    class Prices(BaseService):
        def process(self, record: int) -> int:
            return record

    class NoLicenseError(Exception):
        skippable = False

    def unlicensed(record: int) -> int:
        raise NoLicenseError(f"of {record} nothing is known")

    letters: list[FailedRecord] = []
    for function, error in ((Asks, ServiceNotFoundError), (unlicensed, NoLicenseError)):
        for on_error in ("skip", letters.append):
            env = LocalEnvironment("mistake")
            env.register_service("prices", Prices)
            env.from_collection(range(3)).map(function, on_error=on_error)
            with pytest.raises(error):
                env.submit()
    assert letters == []


def test_a_flatmap_that_fails_half_way_keeps_what_it_had_emitted() -> None:
    _, out, error = run(through("flatmap", explode_it), on_error="skip")
    assert error is None
    assert out == list(range(1000))


def test_an_error_belongs_to_its_operator_and_not_to_those_before_it() -> None:
    env = LocalEnvironment("blame")
    skipped: list[FailedRecord] = []
    stream = env.from_collection(range(3)).map(str, on_error=skipped.append)
    stream.flatmap(list, on_error=skipped.append).map(int).sink(lambda x: 1 / x, name="divide")
    with pytest.raises(ZeroDivisionError) as caught:
        env.submit()
    assert skipped == []
    assert caught.value.__notes__ == ["in operator 'divide' on record 0"]


def test_a_filters_answer_without_a_truth_value_is_the_filters_error() -> None:
    class Ambiguous:
        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    env = LocalEnvironment("truth")
    letters: list[FailedRecord] = []
    env.from_collection([1]).filter(lambda _: Ambiguous(), name="vague", on_error=letters.append)
    env.submit()
    assert [(letter.operator, letter.record) for letter in letters] == [("vague", 1)]


@pytest.mark.parametrize("parallelism", [1, 2])
def test_an_unhashable_key_is_the_error_of_keyby(parallelism: int) -> None:
    env = LocalEnvironment("keys")
    stream = env.from_collection([1]).keyby(lambda x: [x], name="key")
    stream.map(str, parallelism=parallelism)
    with pytest.raises(TypeError, match="unhashable") as caught:
        env.submit()
    assert caught.value.__notes__ == ["in operator 'key' on record 1"]


def test_a_flatmap_that_returns_no_iterable_fails() -> None:
    env = LocalEnvironment("flat")
    env.from_collection([1]).flatmap(lambda x: x)
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        env.submit()


def test_an_error_that_takes_no_notes_keeps_its_type() -> None:
    @dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    def fail(record: int) -> int:
        raise FrozenError(record)

    env = LocalEnvironment("frozen")
    env.from_collection([7]).map(fail)
    with pytest.raises(FrozenError) as caught:
        env.submit()
    assert caught.value.code == 7


def test_an_error_of_a_dead_letter_sink_that_takes_no_attributes_is_raised() -> None:
    @dataclass(frozen=True)
    class FullError(Exception):
        path: str

    def write(_: FailedRecord) -> None:
        raise FullError("dead.jsonl")

    env = LocalEnvironment("frozen")
    env.from_collection([0]).map(lambda x: 1 / x, on_error=write)
    with pytest.raises(FullError) as caught:
        env.submit()
    assert caught.value.path == "dead.jsonl"
    assert isinstance(caught.value.__context__, ZeroDivisionError)


def test_the_first_of_many_errors_is_the_one_raised() -> None:
    def fail(record: int) -> int:
        raise BadRecordError(record)

    env = LocalEnvironment("many")
    env.from_collection(range(100)).map(fail, parallelism=4, name="all")
    with pytest.raises(BadRecordError) as caught:
        env.submit()
    assert len(caught.value.__notes__) == 1
    assert env.failure is not None
    assert env.failure.error is caught.value


def test_a_failed_record_pickles() -> None:
    failed = FailedRecord(operator="map", record={"id": 1}, error=ValueError("no"), attempts=3)
    again = pickle.loads(pickle.dumps(failed))
    assert (again.operator, again.record, again.attempts) == ("map", {"id": 1}, 3)
    assert repr(again.error) == "ValueError('no')"
    assert str(again) == "in operator 'map' on record {'id': 1} after 3 attempts"


def readings() -> Iterator[Any]:
    yield 1
    yield UnreadableRecord(record="two", error=ValueError("'two' is no number"))
    yield 3


def test_a_source_hands_what_it_cannot_read_to_its_on_error() -> None:
    letters: list[FailedRecord] = []
    out: list[int] = []
    env = LocalEnvironment("readings")
    env.from_source(readings, on_error=letters.append).sink(out.append)
    env.submit()
    assert out == [1, 3]
    (letter,) = letters
    assert (letter.operator, letter.record) == ("readings", "two")
    source = env.metrics().operator("readings")
    assert (source.records_out, source.dead_lettered) == (2, 1)


def test_a_record_that_a_source_cannot_read_stops_the_run_if_nothing_else_is_said() -> None:
    env = LocalEnvironment("readings")
    env.from_source(readings).print()
    with pytest.raises(ValueError, match="'two' is no number") as caught:
        env.submit()
    assert caught.value.__notes__ == ["in operator 'readings' on record 'two'"]
    with pytest.raises(ValueError, match=r"a sink, not 'skp'; did you mean 'skip'\?$"):
        LocalEnvironment("typo").from_source(readings, on_error="skp")
