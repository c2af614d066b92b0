"""CacheStore: what it keeps, what it drops, and processes that write at once or are killed."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.cache import cache_store
from sage.common.components.sage_vllm.cache.cache_store import FILE, CacheStore


def key(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def put(store: CacheStore, *numbers: int, size: int = 10, max_bytes: int | None = None) -> None:
    store.put({key(n): ("org/model", b"x" * size) for n in numbers}, [], max_bytes)


def written(store: CacheStore) -> int:
    return sum(each.answers for each in store.contents())


def numbers(store: CacheStore, count: int = 20) -> list[int]:
    return [n for n in range(count) if store.get(key(n)) is not None]


def test_values_are_found_by_their_keys_in_later_connections_too(tmp_path: Path) -> None:
    store = CacheStore(tmp_path / "a" / "b")
    assert store.get(key(1)) is None
    store.put({key(1): ("org/model", b"one")}, [], None)
    store.close()
    value, created, used = CacheStore(tmp_path / "a" / "b").get(key(1)) or (b"", 0.0, 0.0)
    assert value == b"one"
    assert created == used == pytest.approx(time.time(), abs=60)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o77 == 0


def test_a_value_that_comes_again_replaces_the_first(tmp_path: Path) -> None:
    store = CacheStore(tmp_path)
    for value in (b"first", b"the second"):
        store.put({key(1): ("org/model", value)}, [], None)
    (kept,) = store.contents()
    assert (store.get(key(1)) or (b"",))[0] == b"the second"
    assert (kept.model, kept.answers, kept.bytes) == ("org/model", 1, len(b"the second") + 128)


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    store = CacheStore(tmp_path)
    for number in range(10):
        put(store, number, size=872)  # 1,000 bytes each
        time.sleep(0.002)
    store.put({}, [key(0), key(1)], None)  # used again
    put(store, 10, size=872, max_bytes=8000)
    assert numbers(store) == [0, 1, 6, 7, 8, 9, 10]  # down to nine tenths of the limit
    assert sum(each.bytes for each in store.contents()) == 7000


def test_prune_drops_by_age_and_by_size_and_gives_the_disk_back(tmp_path: Path) -> None:
    store = CacheStore(tmp_path)
    put(store, *range(200), size=10_000)
    before = (tmp_path / FILE).stat().st_size + (tmp_path / f"{FILE}-wal").stat().st_size
    assert store.prune(unused_seconds=60) == 0
    assert store.prune(max_bytes=500_000) == 151
    assert (tmp_path / FILE).stat().st_size < before / 3
    time.sleep(0.01)
    assert store.prune(unused_seconds=0.005) == 49
    assert store.contents() == []
    put(store, 1)  # it goes on
    assert numbers(store) == [1]


def test_a_file_of_a_later_version_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_store, "_VERSION", 7)
    CacheStore(tmp_path).close()
    monkeypatch.undo()
    with pytest.raises(sqlite3.DatabaseError, match="later version, 7"):
        CacheStore(tmp_path)


WRITER = """
    import hashlib, sys, random
    from pathlib import Path
    from sage.common.components.sage_vllm.cache.cache_store import CacheStore
    store = CacheStore(Path(sys.argv[1]))
    noise = random.Random(int(sys.argv[2]))
    print("begun", flush=True)
    while True:
        some = [noise.randrange(2000) for _ in range(20)]
        kept = {}
        for number in some:
            key = hashlib.sha256(b"%d" % number).digest()
            kept[key] = ("org/model", key * noise.randrange(1, 200))
        store.put(kept, list(kept), 2_000_000)
"""


def test_eight_writers_some_of_them_killed_leave_nothing_half_written(tmp_path: Path) -> None:
    program = textwrap.dedent(WRITER)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(seed)], stdout=subprocess.PIPE
        )
        for seed in range(8)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"begun\n"
        store, found = CacheStore(tmp_path), 0
        for victim in writers[:4]:
            began, before = time.monotonic(), found
            while time.monotonic() < began + 0.25 or found < before + 300 or written(store) <= 100:
                assert time.monotonic() < began + 60
                for number in range(0, 2000, 7):
                    if (row := store.get(key(number))) is not None:
                        found += 1
                        assert row[0] == key(number) * (len(row[0]) // 32)
            victim.send_signal(signal.SIGKILL)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert found > 1000
    put(store, 1, max_bytes=2_000_000)
    rows = sqlite3.connect(tmp_path / FILE).execute("SELECT sum(size), count(*) FROM answers")
    size, count = rows.fetchone()
    assert store._total() == size <= 2_000_000
    assert count > 100
    check = sqlite3.connect(tmp_path / FILE).execute("PRAGMA integrity_check").fetchall()
    assert check == [("ok",)]
