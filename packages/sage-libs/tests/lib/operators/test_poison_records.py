"""One record in twenty is bad: each is accounted for, and no good one is lost or doubled."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import Generation
from sage.common.components.sage_vllm.errors import (
    EngineDeadError,
    InvalidInputError,
    PromptTooLongError,
)
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.vllm_service import VLLMServiceGenerator

pytestmark = pytest.mark.timeout(240)

RECORDS = 2000
EVERY = 20
POISON: tuple[Any, ...] = (
    {"prompt": ""},
    {"prompt": "word " * 600},  # more than the engine takes
    {"question": "where is the prompt"},
    {"prompt": 7},
)


def record(number: int) -> dict[str, Any]:
    if number % EVERY:
        return {"id": number, "prompt": f"record {number}"}
    return {"id": number, **POISON[number // EVERY % len(POISON)]}


GOOD = [number for number in range(RECORDS) if number % EVERY]
BAD = [number for number in range(RECORDS) if not number % EVERY]


@pytest.mark.parametrize("ordered", [True, False])
def test_every_record_comes_out_or_becomes_a_dead_letter(
    env: LocalEnvironment, run: Any, *, ordered: bool
) -> None:
    letters: list[FailedRecord] = []
    records = [record(number) for number in range(RECORDS)]
    out = run(
        env,
        records,
        VLLMServiceGenerator,
        ordered=ordered,
        prefix_order="auto" if ordered else "off",  # else they come out as they were started
        on_error=letters.append,
    )
    assert [r["id"] for r in out] == GOOD
    assert all(r["generated"] == f"record {r['id']}" for r in out)
    assert sorted(letter.record["id"] for letter in letters) == BAD
    assert Counter(type(letter.error) for letter in letters) == {
        InvalidInputError: 50,
        ValueError: 25,
        PromptTooLongError: 25,
    }
    assert {letter.attempts for letter in letters} == {1}


def test_every_bad_record_is_skipped_and_logged(
    env: LocalEnvironment, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    records = [record(number) for number in range(RECORDS)]
    with caplog.at_level(logging.WARNING):
        out = run(env, records, VLLMServiceGenerator, on_error="skip")
    assert [r["id"] for r in out] == GOOD
    assert sum("skipped" in entry.message for entry in caplog.records) == len(BAD)


def test_the_first_bad_record_stops_the_pipeline(env: LocalEnvironment) -> None:
    out: list[Any] = []
    records = [record(number) for number in range(1, RECORDS)]
    env.from_collection(records).map(VLLMServiceGenerator).sink(out.append)
    with pytest.raises(PromptTooLongError, match="512 tokens, and this prompt has 600") as caught:
        env.submit()
    assert (caught.value.prompt_tokens, caught.value.max_model_len) == (600, 512)
    assert env.failure is not None
    assert env.failure.record["id"] == EVERY
    assert [r["id"] for r in out] == list(range(1, EVERY))


def test_what_fails_for_a_while_is_retried_and_counted(environment: Any, run: Any) -> None:
    attempts: Counter[str] = Counter()

    class Unsteady(EchoEngine):
        """Fails once on the records that are bad, and always on every other one of those."""

        def submit(self, prompt: Any, options: Mapping[str, Any], *rest: Any) -> Future[Any]:
            number = int(prompt.split()[1])
            attempts[prompt] += 1
            if number % EVERY or (attempts[prompt] > 1 and number % (2 * EVERY)):
                return super().submit(prompt, options, *rest)
            failed: Future[Generation] = Future()
            failed.set_exception(EngineDeadError("test/echo", "out of memory"))
            return failed

    class Impatient(VLLMServiceGenerator):
        retry_backoff = 0.001

    letters: list[FailedRecord] = []
    prompts = [f"record {number}" for number in range(RECORDS)]
    out = run(environment(Unsteady), prompts, Impatient, retries=2, on_error=letters.append)
    always = [f"record {number}" for number in range(0, RECORDS, 2 * EVERY)]
    assert [r["generated"] for r in out] == [p for p in prompts if p not in always]
    assert sorted(letter.record for letter in letters) == sorted(always)
    assert {letter.attempts for letter in letters} == {3}
    assert Counter(attempts.values()) == {1: len(GOOD), 2: len(BAD) // 2, 3: len(BAD) // 2}
