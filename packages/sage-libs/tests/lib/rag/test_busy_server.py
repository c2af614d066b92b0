"""A server that says when to come again: it is waited for, once for all, and not for ever."""

from __future__ import annotations

import email.utils
import logging
import pickle
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from chat_server import Reply

from sage.common.components.endpoint_answer import retry_after
from sage.common.components.endpoint_error import EndpointBusyError, EndpointError
from sage.common.components.endpoint_patience import EndpointPatience
from sage.common.core.errors import RecordTimeoutError
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.rag.generator import OpenAIGenerator

if TYPE_CHECKING:
    from chat_server import ChatServer

pytestmark = pytest.mark.timeout(240)


def run(
    server: ChatServer, records: list[Any], **arguments: Any
) -> tuple[list[Any], list[FailedRecord]]:
    out: list[Any] = []
    letters: list[FailedRecord] = []
    env = LocalEnvironment("busy")
    env.from_collection(records).map(
        OpenAIGenerator, "tiny", server.base_url, api_key="k", on_error=letters.append, **arguments
    ).sink(out.append)
    env.submit()
    return out, letters


def busy(status: int, after: str, name: str = "Retry-After") -> Reply:
    return Reply(status=status, headers={name: after})


@pytest.mark.parametrize("status", [429, 503])
def test_it_is_waited_for_as_long_as_it_says_and_counts_as_no_retry(
    server: ChatServer, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.replies = [busy(status, "0.4")] * 3
    with caplog.at_level(logging.WARNING):
        out, letters = run(server, ["hello"], retries=0)
    assert ([record["generated"] for record in out], letters) == (["hello"], [])
    assert len(server.requests) == 4
    times = [time for time, _ in server.arrivals]
    assert all(0.4 <= after - before < 20 for before, after in pairwise(times))
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"answered {status} (told to fail) and asks to come again in 0.4 s" in line
    assert "for 600 s at most" in line


def test_a_date_is_a_time_to_come_again(server: ChatServer) -> None:
    then = time.time() + 2
    server.replies = [busy(503, email.utils.formatdate(then, usegmt=True))]
    ((record,), _) = run(server, ["hello"], retries=0)
    assert record["generated"] == "hello"
    assert time.time() >= int(then)  # a date has whole seconds


def test_all_records_wait_and_do_not_come_back_at_once(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    records = [f"record {n}" for n in range(40)]
    server.replies = [busy(429, "1")] * 20
    with caplog.at_level(logging.WARNING):
        out, letters = run(server, records, retries=0, max_in_flight=20)
    assert ([record["generated"] for record in out], letters) == (records, [])
    assert len(caplog.records) == 1
    arrivals = sorted(server.arrivals)
    assert arrivals[20][0] - arrivals[0][0] >= 1
    times_of: dict[str, list[float]] = {}
    for at, prompt in arrivals:
        times_of.setdefault(prompt, []).append(at)
    back = [times[1] for times in times_of.values() if len(times) > 1]
    assert max(back) - min(back) > 0.1  # those that were refused, over half a second


def test_patience_ends(server: ChatServer) -> None:
    server.replies = [busy(429, "0.2")] * 99
    began = time.monotonic()
    _, (letter,) = run(server, ["hello"], retries=3, patience=0.5)
    assert time.monotonic() - began < 20
    assert isinstance(letter.error, EndpointBusyError)
    assert (letter.attempts, letter.error.status, letter.error.retryable) == (1, 429, False)
    assert "patience= ends 0.5 s after its first refusal" in str(letter.error)
    assert len(server.requests) >= 2
    again = pickle.loads(pickle.dumps(letter.error))
    assert (str(again), vars(again)) == (str(letter.error), vars(letter.error))


def test_a_server_that_asks_for_longer_than_patience_fails_at_once(server: ChatServer) -> None:
    server.replies = [busy(503, "3600")]
    began = time.monotonic()
    _, (letter,) = run(server, ["hello"])
    assert time.monotonic() - began < 20
    assert isinstance(letter.error, EndpointBusyError)
    assert "it asks to wait for 3600 s more" in str(letter.error)


def test_the_timeout_of_a_record_covers_the_waiting(server: ChatServer) -> None:
    server.replies = [busy(429, "30")]
    _, (letter,) = run(server, ["hello"], timeout=0.3)
    assert isinstance(letter.error, RecordTimeoutError)


def test_closing_does_not_wait(server: ChatServer) -> None:
    server.replies = [busy(429, "30")] * 9
    env = LocalEnvironment("busy")
    stream = env.from_collection(["a", "b"])
    stream.map(OpenAIGenerator, "tiny", server.base_url, api_key="k").print()
    env.submit(autostop=False)
    while not server.arrivals:
        time.sleep(0.01)
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("patience", [-1, "10", None, True, float("nan")])
def test_a_patience_that_is_none_is_refused(server: ChatServer, patience: Any) -> None:
    with pytest.raises(ValueError, match="patience must be a number of seconds"):
        run(server, ["hello"], patience=patience)


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "-3"}, 0, 0),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0, 0),
    ],
)
def test_when_to_come_again(headers: dict[str, str], low: float, high: float) -> None:
    seconds = retry_after(headers)
    assert seconds is not None
    assert low <= seconds <= high


def test_when_to_come_again_as_a_date() -> None:
    then = email.utils.formatdate(time.time() + 3000, usegmt=True)
    seconds = retry_after({"retry-after": then})
    assert seconds is not None
    assert 2000 <= seconds <= 3001


@pytest.mark.parametrize("headers", [{}, {"retry-after": "soon"}, {"retry-after": "inf"}])
def test_no_time_to_come_again(headers: dict[str, str]) -> None:
    assert retry_after(headers) is None


def test_an_answer_renews_patience_and_nothing_else_does() -> None:
    patience = EndpointPatience(20)
    error = EndpointError("http://x", "busy", 429, 19.9)
    patience.refused(error, 1)
    time.sleep(0.2)
    with pytest.raises(EndpointBusyError):
        patience.refused(error, 2)
    patience.answered()
    patience.refused(error, 3)
    assert 0 < patience.pause() < 30
