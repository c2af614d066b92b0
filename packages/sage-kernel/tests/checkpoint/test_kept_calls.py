"""Service calls of coroutines whose results a checkpoint keeps until their record is done."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sage.common.core.functions import MapFunction
from sage.common.service import BaseService
from sage.kernel.api import CollectSink, LocalEnvironment, ServiceChangedError
from sage.kernel.runtime.checkpoint import CheckpointError, CheckpointMismatchError

TURNS = 4


class Answers(BaseService):
    """Gives each call an answer of its own, so that one which is made again shows."""

    max_concurrency = None

    def __init__(self, calls: list[Any], identity: str = "one") -> None:
        self.calls = calls
        self.identity = identity

    def checkpoint_identity(self) -> dict[str, Any]:
        return {"model": self.identity}

    def process(self, payload: Any) -> Any:
        self.calls.append(str(payload))  # as it is now
        return {"answer": len(self.calls), "to": str(payload)}

    def lock(self) -> Any:
        self.calls.append("lock")
        return threading.Lock()


class Dialogue(MapFunction):
    """Asks several times, each time about the answer before; fails after the last, if it is to."""

    keep_calls = True
    max_in_flight = 4
    free_arguments = frozenset({"broken"})  # no part of what a checkpoint knows it by

    def __init__(self, broken: set[int]) -> None:
        self.broken = broken
        self.fails = False
        self.calls = 0  # on their way

    async def execute(self, number: int) -> list[int]:
        answers: list[int] = []
        for _ in range(TURNS):
            answers.append(await self.ask([number, answers]))
        if number in self.broken:
            self.fails = True
            while self.calls:  # one that is cancelled may have been counted, and is not kept
                await asyncio.sleep(0.001)
            raise ValueError(f"{number} is broken")
        return answers

    async def ask(self, payload: list[Any]) -> int:
        if self.fails:
            await asyncio.sleep(60)
        self.calls += 1
        answer: int = (await self.call("oracle", payload))["answer"]
        self.calls -= 1
        return answer


class Job:
    """One pipeline that is submitted again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[Any] = []
        self.out: list[Any] = []
        self.broken: set[int] = set()
        self.function: Any = Dialogue
        self.identity = "one"
        self.records: list[Any] = list(range(20))

    def submit(self) -> int:
        """Run, and return how many calls that took."""
        before = len(self.calls)
        env = LocalEnvironment("job")
        env.register_service("oracle", Answers, self.calls, self.identity)
        stream = env.from_collection(self.records).map(self.function, self.broken, name="ask")
        stream.sink(CollectSink, self.out)
        try:
            env.submit(checkpoint=self.folder / "checkpoint")
        finally:
            self.made = len(self.calls) - before
        return self.made

    def fail(self) -> None:
        with pytest.raises(ValueError, match="is broken"):
            self.submit()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_a_run_that_goes_on_makes_no_call_again(job: Job) -> None:
    job.broken = {9}
    job.fail()
    first = job.made
    assert first >= 10 * TURNS
    job.broken = set()
    assert job.submit() == 20 * TURNS - first
    assert len(job.out) == 20
    assert all(len(set(answers)) == TURNS for answers in job.out)
    assert Counter(job.calls).most_common(1)[0][1] == 1
    assert not (job.folder / "checkpoint" / "calls.sqlite").exists()  # all is done


def test_without_it_the_calls_of_records_in_flight_are_made_again(job: Job) -> None:
    class Forgetful(Dialogue):
        keep_calls = False

    job.function, job.broken = Forgetful, {9}
    job.fail()
    first, job.broken = job.made, set()
    assert job.submit() >= 20 * TURNS - first + TURNS  # those of record 9 at least
    assert not list((job.folder / "checkpoint").glob("calls*"))


def test_a_run_that_stops_before_its_first_record_is_done_keeps_its_calls(job: Job) -> None:
    job.broken, job.records = {0}, [0]
    job.fail()
    job.broken = set()
    assert job.submit() == 0
    assert job.out == [[1, 2, 3, 4]]


def test_what_stops_again_and_again_goes_on_each_time(job: Job) -> None:
    job.broken, job.records = {0}, [0]
    for made in (TURNS, 0, 0):
        job.fail()
        assert job.made == made
    job.broken = set()
    assert job.submit() == 0


def test_another_argument_is_another_call(job: Job) -> None:
    class Mended(Dialogue):
        async def execute(self, number: int) -> list[int]:
            first = await self.call("oracle", [number, []])
            return [first["answer"], (await self.call("oracle", "anew"))["answer"]]

    Mended.__qualname__ = Dialogue.__qualname__  # as in a program that was changed
    job.broken, job.records = {0}, [0]
    job.fail()
    job.function, job.broken = Mended, set()
    assert job.submit() == 1
    assert job.out == [[1, 5]]


def test_equal_records_and_equal_calls_have_answers_of_their_own(job: Job) -> None:
    answered: list[int] = []

    class Samples(Dialogue):
        async def execute(self, number: int) -> list[int]:
            made = await asyncio.gather(*(self.call("oracle", "sample") for _ in range(3)))
            answered.append(number)
            while len(answered) < 3:
                await asyncio.sleep(0.001)
            if self.broken:
                raise ValueError("it is broken")
            return [answer["answer"] for answer in made]

    job.function, job.records, job.broken = Samples, [7, 7, 7], {7}
    job.fail()
    assert job.made == 9
    job.broken = set()
    assert job.submit() == 0
    assert sorted(answer for answers in job.out for answer in answers) == list(range(1, 10))


def test_a_retry_within_a_run_asks_again(job: Job) -> None:
    class WrongAnswerError(Exception):
        retryable = True

    class Insists(Dialogue):
        retries, retry_backoff = 3, 0.0

        async def execute(self, number: int) -> int:
            answer: int = (await self.call("oracle", "the same"))["answer"]
            if answer < 3:
                raise WrongAnswerError(answer)
            if self.broken:
                raise ValueError("it is broken")
            return answer

    job.function, job.records, job.broken = Insists, [0], {0}
    job.fail()
    assert job.made == 3
    job.broken = set()
    assert job.submit() == 0  # the retries of the first run again
    assert job.out == [3]


def test_records_of_a_flatmap_are_told_from_each_other(job: Job) -> None:
    answered: list[str] = []

    def submit(*, broken: bool) -> None:
        class Ask(MapFunction):
            keep_calls = True

            async def execute(self, word: str) -> int:
                answer: int = (await self.call("oracle", word))["answer"]
                answered.append(word)
                while broken and word == "f" and len(answered) < 6:
                    await asyncio.sleep(0.001)
                if broken and word == "f":
                    raise ValueError("f is broken")
                return answer

        env = LocalEnvironment("job")
        env.register_service("oracle", Answers, job.calls)
        words = env.from_collection(["a b c", "", "d e f"]).flatmap(str.split)
        words.map(Ask).sink(CollectSink, job.out)
        env.submit(checkpoint=job.folder / "checkpoint")

    with pytest.raises(ValueError, match="f is broken"):
        submit(broken=True)
    submit(broken=False)
    assert sorted(job.calls) == list("abcdef")
    assert set(job.out) == {
        1,
        2,
        3,
        4,
        5,
        6,
    }  # "d e f" came to it in part before


@pytest.mark.parametrize("change", ["service", "pipeline"])
def test_kept_calls_are_of_one_pipeline_and_one_model(job: Job, change: str) -> None:
    job.broken, job.records = {0}, [0]
    job.fail()
    job.broken = set()
    if change == "service":
        job.identity = "another"
        with pytest.raises(ServiceChangedError):
            job.submit()
    else:
        job.records = [0, 1]  # an argument of the source
        with pytest.raises(CheckpointMismatchError):
            job.submit()
    assert job.made == 0


@pytest.mark.parametrize("problem", ["argument", "result"])
def test_what_cannot_be_kept_is_told_once_and_called_again(
    job: Job, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(Dialogue):
        async def execute(self, number: int) -> int:
            for _ in range(2):
                if problem == "argument":
                    await self.call("oracle", threading.Lock())
                else:
                    await self.call("oracle", method="lock")
            if self.broken:
                raise ValueError("it is broken")
            return number

    job.function, job.records, job.broken = Odd, [0], {0}
    with caplog.at_level(logging.WARNING):
        job.fail()
    (told,) = [record.getMessage() for record in caplog.records if "again" in record.getMessage()]
    assert "operator 'ask'" in told
    assert "'oracle'" in told
    assert "lock" in told
    job.broken = set()
    assert job.submit() == 2


@dataclass
class Question:
    text: str
    weight: float


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {1, 2, 3}),
        ([1, 2], (1, 2)),
        (Question("why", 0.5), Question("why", 0.5)),
        (Path("a") / "b", Path("a/b")),
        (math.floor, math.floor),
        (Question, Question),
    ],
)
def test_arguments_that_are_equal_are_known_again(job: Job, one: Any, other: Any) -> None:
    assert _calls_made(job, one, other) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({1: "a"}, {"1": "a"}),
        (1, True),
        (1, 1.0),
        ("1", 1),
        (b"a", "a"),
        (Question("why", 0.5), Question("why", 0.25)),
        ([[1], 2], [[1, 2]]),
        (math.floor, math.ceil),
        (Question, Dialogue),
        (lambda: 1, lambda: 1),  # nothing tells that they are equal
        (None, "None"),
    ],
)
def test_arguments_that_differ_are_others(job: Job, one: Any, other: Any) -> None:
    assert _calls_made(job, one, other) == 1


def _calls_made(job: Job, one: Any, other: Any) -> int:
    """Return how many calls it takes to go on with another argument."""

    class Ask(Dialogue):
        async def execute(self, number: int) -> int:
            await self.call("oracle", one if self.broken else other, timeout=9)
            if self.broken:
                raise ValueError("it is broken")
            return number

    job.function, job.records, job.broken = Ask, [0], {0}
    job.fail()
    job.broken = set()
    return job.submit()


def test_only_a_coroutine_keeps_calls() -> None:
    class Plain(MapFunction):
        keep_calls = True

        def execute(self, record: int) -> int:
            return record

    class Misspelt(Dialogue):
        keep_calls: Any = "yes"

    env = LocalEnvironment("job")
    with pytest.raises(TypeError, match=r"Plain has keep_calls, .* is no `async def`"):
        env.from_collection([1]).map(Plain)
    with pytest.raises(TypeError, match=r"keep_calls of Misspelt must be True or False, not 'yes'"):
        env.from_collection([1]).map(Misspelt)


def test_a_file_that_is_broken_is_named(job: Job) -> None:
    job.broken, job.records = {0}, [0]
    job.fail()
    kept = job.folder / "checkpoint" / "calls.sqlite"
    kept.write_bytes(b"nonsense" * 1000)
    with pytest.raises(CheckpointError, match=re.escape(str(kept))) as raised:
        job.submit()
    assert "delete that file" in str(raised.value)
    kept.unlink()
    job.broken = set()
    assert job.submit() == TURNS


PROGRAM = """
import json, sys, time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from sage.common.core.functions import MapFunction
from sage.common.service import BaseService
from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSink

class Oracle(BaseService):
    max_concurrency = None
    def setup(self):
        self.log = open("calls.log", "a", buffering=1)
        self.pool = ThreadPoolExecutor(16)
    def process(self, payload): ...
    def process_async(self, payload):
        return self.pool.submit(self.answer, payload)
    def answer(self, payload):
        time.sleep(0.01)
        self.log.write(json.dumps(payload) + "\\n")
        return time.time_ns()
    def cleanup(self):
        self.pool.shutdown()

class Dialogue(MapFunction):
    keep_calls = True
    max_in_flight = 8
    async def execute(self, record):
        answers = []
        for turn in range(6):
            answers.append(await self.call("oracle", [record, turn, answers[-1:]]))
        return {"id": record, "answers": answers}

env = LocalEnvironment("job")
env.register_service("oracle", Oracle)
env.from_collection(range(200)).map(Dialogue).sink(JSONLSink, "out.jsonl")
print("begins", flush=True)
env.submit(checkpoint="checkpoint")
"""


@pytest.mark.timeout(180)
def test_a_kill_costs_each_record_in_flight_one_call_at_most(tmp_path: Path) -> None:
    pytest.importorskip("sage.libs.io")
    chance, kills = random.Random(1), 0
    log = tmp_path / "calls.log"

    def size() -> int:
        return log.stat().st_size if log.exists() else 0

    for _ in range(40):
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        assert program.stdout is not None
        enough = size() + chance.uniform(0, 2000)  # of some 35 kB
        assert program.stdout.readline() == "begins\n"
        if kills < KILLS:
            while size() <= enough and program.poll() is None:
                time.sleep(0.001)
            program.kill()
        program.communicate()
        if program.returncode == 0:
            break
        assert program.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= min(KILLS, 3)
    calls = Counter(log.read_text().splitlines())
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(200))
    for line in lines:  # what became the answer is what the next turn was asked about
        for turn, answer in enumerate(line["answers"][:-1], start=1):
            assert json.dumps([line["id"], turn, [answer]]) in calls
    made = Counter(json.dumps(json.loads(call)[:2]) for call in calls.elements())
    repeated = made.total() - len(made)
    assert len(made) == 200 * 6
    assert repeated <= kills * 8


KILLS = 6


@pytest.fixture(autouse=True)
def _no_threads_left(threads_left: Callable[[str], list[str]]) -> Iterator[None]:
    yield
    assert not threads_left("sage-checkpoint")
