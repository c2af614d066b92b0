"""ResultCache: finds, keeps, and never fails whoever uses it."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.cache.cache_settings import CacheSettings
from sage.common.components.sage_vllm.cache.cache_store import FILE, CacheStore
from sage.common.components.sage_vllm.cache.result_cache import ResultCache
from sage.common.components.sage_vllm.cache.result_caches import ResultCaches
from sage.common.components.sage_vllm.cache.stored_answer import (
    restored,
    restored_embedding,
    stored,
    stored_embedding,
)
from sage.common.components.sage_vllm.engine_contract import (
    Completion,
    Embedding,
    Generation,
    ToolCall,
)
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.tokens import TokenLogprob

KEY, OTHER = b"k" * 32, b"o" * 32


def opened(folder: Path, **settings: Any) -> ResultCache:
    return ResultCache(CacheSettings.of({"folder": folder, **settings}))


def test_what_was_kept_is_found_by_the_next_one(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    assert cache.find(KEY) is None
    cache.keep(KEY, "org/model", lambda: b"answer")
    cache.keep(OTHER, "org/model", lambda: None)
    cache.close()
    cache.close()
    assert (cache.misses, cache.kept, cache.errors) == (1, 1, 0)
    cache = opened(tmp_path)
    assert cache.find(KEY) == b"answer"
    assert cache.find(OTHER) is None
    counts = {"hits": 1, "misses": 1, "kept": 0, "skipped": 0, "errors": 0}
    assert cache.record() == {"folder": str(tmp_path), **counts}


def test_what_is_kept_is_soon_found_by_others(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.keep(KEY, "org/model", lambda: b"answer")
    until = time.monotonic() + 60
    while other.find(KEY) is None:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_an_answer_that_is_too_old_is_a_miss(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.keep(KEY, "org/model", lambda: b"answer")
    cache.close()
    time.sleep(0.02)
    assert opened(tmp_path, ttl=0.01).find(KEY) is None
    assert opened(tmp_path, ttl=3600).find(KEY) == b"answer"


def test_a_limit_holds_while_it_is_written(tmp_path: Path) -> None:
    cache = opened(tmp_path, max_bytes="100kB")
    for number in range(1000):
        cache.keep(b"%032d" % number, "org/model", lambda: b"x" * 1000)
    cache.close()
    (kept,) = CacheStore(tmp_path).contents()
    assert kept.bytes <= 100_000
    assert cache.kept == 1000


def _no_database(folder: Path) -> None:
    folder.mkdir()
    (folder / FILE).write_bytes(b"this is no database" * 100)


def _no_folder(folder: Path) -> None:
    folder.write_text("a file")


def _damaged(folder: Path) -> None:
    cache = opened(folder)
    for number in range(200):
        cache.keep(b"%032d" % number, "org/model", lambda: b"x" * 1000)
    cache.close()
    with (folder / FILE).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 200_000)


@pytest.mark.parametrize("breaks", [_no_database, _no_folder, _damaged])
def test_a_broken_cache_is_told_of_once_and_used_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, breaks: Any
) -> None:
    breaks(tmp_path / "cache")
    cache = opened(tmp_path / "cache")
    for number in range(20):
        assert cache.find(b"%032d" % number) is None
        cache.keep(KEY, "org/model", lambda: b"answer")
    cache.close()
    assert cache.errors >= 1
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert f"the result cache in {tmp_path / 'cache'} has an error" in warning


def test_an_answer_that_cannot_be_made_is_an_error_of_the_cache_alone(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.keep(KEY, "org/model", lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    while not cache.errors:
        time.sleep(0.005)
    cache.keep(OTHER, "org/model", lambda: b"answer")
    cache.close()
    assert opened(tmp_path).find(OTHER) == b"answer"


def test_a_process_that_holds_the_database_is_waited_for(tmp_path: Path) -> None:
    opened(tmp_path).close()
    CacheStore(tmp_path).close()
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    cache = opened(tmp_path)
    cache.keep(KEY, "org/model", lambda: b"answer")
    assert cache.find(OTHER) is None  # at once
    time.sleep(0.1)
    other.execute("COMMIT")
    cache.close()
    assert (cache.kept, cache.errors) == (1, 0)


# -- settings -------------------------------------------------------------------------------------


def test_a_folder_alone_or_with_limits_is_read(tmp_path: Path) -> None:
    given = {"folder": str(tmp_path), "max_bytes": "1.5GB", "ttl": 60}
    assert CacheSettings.of(given) == CacheSettings(
        folder=tmp_path, max_bytes=1_500_000_000, ttl=60.0
    )
    assert CacheSettings.of(tmp_path) == CacheSettings.of(str(tmp_path))
    assert CacheSettings.of("answers").folder == Path.cwd() / "answers"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "cache must be a folder, or a dict with a folder, not 3"),
        ({"max_bytes": 3}, "cache must be a folder"),
        ("", "is no path"),
        ("s3://bucket", "is an address"),
        ({"folder": "a", "max_size": 3}, "unknown key 'max_size' in cache"),
        ({"folder": "a", "max_bytes": "much"}, "cache.max_bytes must be bytes above 0, or a text"),
        ({"folder": "a", "max_bytes": True}, "cache.max_bytes must be"),
        ({"folder": "a", "ttl": 0}, "cache.ttl must be seconds above 0, not 0"),
    ],
)
def test_what_is_no_cache_is_refused(given: Any, says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        CacheSettings.of(given)


def test_each_cache_is_opened_once_and_a_calls_own_goes_first(tmp_path: Path) -> None:
    caches = ResultCaches(tmp_path / "default")
    default = caches.of({})
    assert default is not None
    assert default.settings.folder == tmp_path / "default"
    assert caches.of({"cache": str(tmp_path / "default")}) is default
    assert caches.of({"cache": None}) is None
    assert caches.of({"cache": tmp_path / "other"}) is not default
    assert [each["folder"] for each in caches.records()] == [
        str(tmp_path / "default"),
        str(tmp_path / "other"),
    ]
    assert ResultCaches(None).of({}) is None
    caches.close()
    assert caches.records() == []


# -- stored answers -------------------------------------------------------------------------------


def test_a_generation_is_restored_with_all_that_it_has() -> None:
    place = TokenLogprob(
        token="a", token_id=1, logprob=-0.5, top={"a": -0.5, "b": -math.inf}, by_id={1: -0.5, 2: -3}
    )
    call = ToolCall(id="call00000", name="look", arguments={"at": "it"})
    completion = Completion(
        text="a",
        finish_reason="tool_calls",
        token_count=3,
        logprobs=[place],
        reasoning="well",
        reasoning_token_count=2,
        tool_calls=[call],
    )
    generation = Generation(
        request_id="r1",
        prompt_token_count=2,
        completions=[completion, replace(completion, logprobs=None, tool_calls=None)],
        latency=1.0,
        prompt_token_ids=[3, 1],
        prompt_logprobs=[None, place],
    )
    kept = stored(generation)
    assert kept is not None
    again = restored(kept, request_id="r2", latency=0.1, prompt_token_ids=[3, 1])
    assert again == replace(generation, request_id="r2", latency=0.1, cached=True)


def test_an_embedding_is_restored_number_by_number() -> None:
    vector = array("f", [0.1, -2.5e-8, 3.0]).tolist()  # as an engine gives them
    kept = stored_embedding(Embedding(vector=vector, token_count=7, truncated=True))
    again = restored_embedding(kept)
    assert again == Embedding(vector=vector, token_count=7, truncated=True, cached=True)
    for spoiled in (kept[:-1], b"", b"[]\n", b"[1, 2"):
        with pytest.raises((ValueError, TypeError)):
            restored_embedding(spoiled)


def test_what_is_not_whole_is_not_stored() -> None:
    cut = Completion(text="a", finish_reason="deadline", token_count=1)
    generation = Generation(request_id="r", prompt_token_count=1, completions=[cut], latency=1.0)
    assert stored(generation) is None
