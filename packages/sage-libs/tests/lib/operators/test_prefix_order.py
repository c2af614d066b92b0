"""Prompts that begin alike are generated one after the other, and nobody sees it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Generation, OnText, Prompt
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.checkpoint import CheckpointMismatchError
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.prefix_order import PrefixOrder, shared_lengths, stem_text
from sage.libs.operators.vllm_service import VLLMServiceGenerator

pytestmark = pytest.mark.timeout(240)


def prompts(count: int, stems: int) -> list[str]:
    """Return shuffled prompts of 45 words, no two equal, in which 0 or so many stems of 40 are."""
    rng = random.Random(1)
    common = [_words(rng, 40) for _ in range(stems)]
    texts = [
        f"{common[n % stems] if stems else _words(rng, 40)} {_words(rng, 5)}" for n in range(count)
    ]
    rng.shuffle(texts)
    return texts


def _words(rng: random.Random, count: int) -> str:
    return " ".join(str(rng.randrange(10**9)) for _ in range(count))


def order(mode: str = "auto", window_bytes: int = 10**6) -> PrefixOrder:
    return PrefixOrder(mode, window_bytes, lambda prompt: (prompt, {}))


def shared_share(texts: Sequence[str], near: int = 1) -> float:
    return sum(shared_lengths(texts, near=near)) / (sum(map(len, texts)) or 1)


# -- what is in common ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "near", "share"),
    [
        ([], 1, 0),
        (["", ""], 1, 0),
        (["abcd", "abcd"], 1, 0.5),
        (["abcd", "abxy"], 1, 0.25),
        (["abcd", "xbcd"], 1, 0),
        (["abcd", "abcdefgh"], 1, 4 / 12),
        (["abcd", "x", "abcd"], 1, 0),
        (["abcd", "x", "abcd"], 2, 4 / 9),
    ],
)
def test_the_share_in_common(texts: Sequence[str], near: int, share: float) -> None:
    assert shared_share(texts, near=near) == pytest.approx(share)


def test_the_share_in_common_is_that_of_letter_by_letter() -> None:
    rng = random.Random(3)
    texts = ["".join(rng.choices("ab", k=rng.randint(0, 40))) for _ in range(300)]
    shared = 0
    for one, other in pairwise(texts):
        shared += next(
            (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
            min(len(one), len(other)),
        )
    assert shared_share(texts) == pytest.approx(shared / sum(map(len, texts)))


def test_a_conversation_begins_as_its_first_messages() -> None:
    system = {"role": "system", "content": "Be brief."}
    one = stem_text([system, {"role": "user", "content": "who"}])
    other = stem_text({"messages": [system, {"role": "user", "content": "what"}]})
    assert (one, other) == ("system\nBe brief.\nuser\nwho", "system\nBe brief.\nuser\nwhat")
    assert stem_text({"prompt": "text"}) == stem_text("text") == "text"


# -- the key of a record ----------------------------------------------------------------------


def test_lower_priorities_and_one_adapter_after_another_go_before_the_text() -> None:
    by = PrefixOrder("on", 10**6, lambda record: (record["prompt"], record))
    records: list[dict[str, Any]] = [
        {"prompt": "a", "priority": 1},
        {"prompt": "b", "lora": "y"},
        {"prompt": "c", "lora": "x"},
        {"prompt": "d"},
        {"prompt": "e", "priority": -1},
        {"prompt": "f"},
    ]
    records.sort(key=lambda record: by.place(record)[0])
    assert [record["prompt"] for record in records] == ["e", "d", "f", "c", "b", "a"]


def test_what_makes_no_sense_goes_first_to_fail_when_it_starts() -> None:
    def read(record: Any) -> Any:
        raise ValueError(record)

    by = PrefixOrder("auto", 10**6, read)
    key, size = by.place("x")
    assert key < order("on").place("")[0]
    assert size > 0
    assert placed(by, ["x"] * 63) == "off"


def test_the_bytes_are_those_of_the_prompt_and_the_answer() -> None:
    by = PrefixOrder("on", 10**6, lambda record: (record, {"max_tokens": 1000, "n": 2}))
    small, large = by.place("x")[1], by.place("x" * 10_001)[1]
    assert large - small == 10_000
    assert 8_000 < small < 12_000


# -- auto -------------------------------------------------------------------------------------


def placed(by: PrefixOrder, texts: Sequence[str]) -> str:
    for text in texts:
        by.place(text)
    return str(by.metrics()["prefix_order"])


def test_auto_is_on_where_the_order_lets_prompts_share_and_off_else() -> None:
    assert placed(order(), prompts(64, 16)) == "on"
    assert placed(order(), prompts(64, 0)) == "off"
    assert placed(order(), sorted(prompts(64, 16))) == "off"  # the input is in that order
    system = "You are a helpful assistant who answers in one word. " * 9
    assert placed(order(), [system + text for text in prompts(64, 0)]) == "off"
    assert placed(order(), [system + text for text in prompts(64, 16)]) == "on"


def test_what_is_too_short_for_an_engines_blocks_is_no_reason() -> None:
    rng = random.Random(2)
    sums = [f"What is {n % 10} plus {n % 7}?" for n in range(1024)]
    phrases = [" ".join(rng.choices("printer invoice login refund".split(), k=25)) for _ in sums]
    system = "You are a helpful assistant who answers in one word. " * 9
    for texts in (sums, phrases, [system + text for text in sums]):
        assert placed(order(), texts) == "off"
    assert placed(order("on"), sums) == "on"


def test_stems_that_come_one_after_the_other_are_no_reason() -> None:
    rng = random.Random(4)
    texts = [f"{stem} {_words(rng, 5)}" for stem in prompts(128, 0) for _ in range(8)]
    assert placed(order(), texts) == "off"


def test_auto_sees_in_a_larger_sample_what_a_small_one_does_not_have() -> None:
    by, texts = order(), prompts(1024, 600)
    assert placed(by, texts[:64]) == "off"
    assert (by.window_bytes, by.held_bytes) == (0, 10**6)
    assert placed(by, texts[64:]) == "on"
    assert (by.window_bytes, by.held_bytes) == (10**6, 10**6)


def test_auto_decides_again() -> None:
    by = order()
    for stems, state in ((16, "on"), (0, "off"), (16, "on")):
        assert placed(by, prompts(1024, stems)) == state
        assert placed(by, prompts(7 * 1024, 16 - stems)) == state  # is not looked at


@pytest.mark.parametrize("stems", [0, 16])
def test_on_is_on(stems: int) -> None:
    by = order("on")
    assert placed(by, prompts(64, stems)) == "on"
    metrics = by.metrics()
    assert (metrics["mode"], metrics["sampled"]) == ("on", 64)
    assert (metrics["shared"] - metrics["shared_as_they_come"] > 0.2) == bool(stems)


def test_off_keeps_input_order() -> None:
    by = order()
    placed(by, prompts(64, 0))
    assert by.place("b")[0] == by.place("a")[0]


# -- in a pipeline ----------------------------------------------------------------------------


class Noting(EchoEngine):
    """Notes the prompts in the order in which they reach the engine."""

    def __init__(self, spec: EngineSpec, noted: list[str], latency: float) -> None:
        super().__init__(spec, latency=latency)
        self._noted = noted

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        self._noted.append(stem_text(prompt))
        return super().submit(prompt, options, on_text)


def changes_of_stem(texts: Sequence[str]) -> int:
    stems = [text.split()[0] for text in texts]
    return sum(one != other for one, other in pairwise(stems))


@pytest.fixture
def generated(environment: Callable[..., LocalEnvironment]) -> Callable[..., Any]:
    """A function that runs records through the operator: output, prompts as started, metrics."""

    def run(records: Sequence[Any], **settings: Any) -> Any:
        noted: list[str] = []
        out: list[Any] = []
        env = environment(partial(Noting, noted=noted, latency=0.002))
        operator = env.from_collection(records).map(VLLMServiceGenerator, name="answer", **settings)
        operator.sink(out.append)
        env.submit()
        return out, noted, env.metrics().operator("answer")

    return run


def told(out: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [(record["prompt"], record["generated"]) for record in out]


@pytest.mark.parametrize("conversations", [False, True])
def test_stems_are_started_together_and_answers_are_those_of_any_order(
    generated: Callable[..., Any], *, conversations: bool
) -> None:
    records: list[Any] = prompts(1000, 20)
    if conversations:
        records = [[{"role": "user", "content": text}] for text in records]
    plain, as_they_came, off = generated(records, prefix_order="off")
    ordered, started, auto = generated(records)
    assert told(ordered) == told(plain)
    assert [record["prompt"] for record in ordered] == records
    assert sorted(started) == sorted(as_they_came)
    assert changes_of_stem([text.removeprefix("user\n") for text in started]) < 300
    assert changes_of_stem([text.removeprefix("user\n") for text in as_they_came]) > 900
    assert (off.overtaken, off.start_order) == (0, ())
    assert auto.overtaken > 300
    assert auto.start_order[0]["prefix_order"] == "on"
    assert auto.start_order[0]["shared"] > 0.8


def test_without_common_stems_records_start_as_they_come(generated: Callable[..., Any]) -> None:
    records = prompts(1000, 0)
    out, started, metrics = generated(records)
    assert started[64:] == records[64:]
    assert told(out) == [(text, text) for text in records]
    assert metrics.start_order[0]["prefix_order"] == "off"
    assert metrics.start_order[0]["shared"] < 0.1


def test_records_that_fail_are_dead_lettered_in_place(generated: Callable[..., Any]) -> None:
    letters: list[FailedRecord] = []
    records: list[Any] = [{"id": n, "prompt": text} for n, text in enumerate(prompts(300, 5))]
    records[10] = {"id": 10}
    records[20] = {"id": 20, "prompt": ""}
    records[30] = {"id": 30, "prompt": "x", "how": {"max_tokens": "many"}}
    records[40] = {"id": 40, "prompt": "x", "how": 7}
    out, _, _ = generated(
        records, on_error=letters.append, prefix_order="on", options_key="how", max_in_flight=8
    )
    assert [letter.record["id"] for letter in letters] == [10, 20, 30, 40]
    assert "the prompt is empty" in str(letters[1].error)
    assert "max_tokens" in str(letters[2].error)
    assert [each["id"] for each in out] == [n for n in range(300) if n not in (10, 20, 30, 40)]


def test_how_far_the_source_is_read_is_bounded_by_the_window(
    environment: Callable[..., LocalEnvironment],
) -> None:
    taken = through = most = 0

    def source() -> Any:
        nonlocal taken
        for text in prompts(2000, 10):
            taken += 1
            yield text

    def sink(_record: Any) -> None:
        nonlocal through, most
        through += 1
        most = max(most, taken - through)

    env = environment(partial(EchoEngine, latency=0.001))
    stream = env.from_source(source)
    stream = stream.map(VLLMServiceGenerator, prefix_order="on", prefix_window_bytes=1_000_000)
    stream.sink(sink)
    env.submit()
    assert through == 2000
    assert 128 < most <= 1_000_000 / 2048 + 2


def test_a_record_waits_for_few_batches_of_later_ones(
    environment: Callable[..., LocalEnvironment],
) -> None:
    """A kill loses what is answered and not emitted: half a window, and what is in flight."""
    answered = through = most = 0

    class Counting(EchoEngine):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Generation]:
            nonlocal answered
            answered += 1
            return super().submit(*args, **kwargs)

    def sink(_record: Any) -> None:
        nonlocal through, most
        most = max(most, answered - through)
        through += 1

    env = environment(partial(Counting, latency=0.001))
    stream = env.from_collection(prompts(1000, 20))
    stream = stream.map(VLLMServiceGenerator, name="answer", prefix_order="on", max_in_flight=4)
    stream.sink(sink)
    env.submit()
    assert through == 1000
    assert 16 < most <= 16 * 4 + 2 * 4
    assert env.metrics().operator("answer").overtaken > 300


def test_a_checkpoint_goes_on_with_another_pace(
    environment: Callable[..., LocalEnvironment], tmp_path: Path
) -> None:
    def run(last: str, **settings: Any) -> list[str]:
        def sink(record: Mapping[str, Any]) -> None:
            out.append(record["prompt"])
            if record["prompt"] == last:
                raise OSError("cut")

        out: list[str] = []
        env = environment(EchoEngine)
        stream = env.from_collection(texts).map(VLLMServiceGenerator, "vllm_service", **settings)
        stream.sink(sink)
        env.submit(checkpoint=tmp_path)
        return out

    texts = prompts(100, 4)
    with pytest.raises(OSError, match="cut"):
        run(texts[50], prefix_order="on", max_in_flight=4, timeout=60)
    pace = {"prefix_order": "off", "max_in_flight": 2, "retries": 3, "prefix_window_bytes": 10**6}
    with pytest.raises(CheckpointMismatchError, match="argument max_tokens 7"):
        run("", max_tokens=7, **pace)
    assert run("", **pace) == texts[50:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefix_order": "atuo"}, "not 'atuo'; did you mean 'auto'"),
        ({"prefix_order": True}, "not True"),
        ({"prefix_window_bytes": 0}, "not 0"),
        ({"prefix_window_bytes": "64MB"}, "not '64MB'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VLLMServiceGenerator(**settings)
