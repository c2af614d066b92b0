"""Several writers at once, and writers that are killed: nothing acknowledged is lost."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sage.middleware.components.memory import DuplicateIdError, VDBMemoryCollection

# Inserts batches of a size until it is told to stop or killed, and says each id it has stored.
WRITER = """
import sys
from sage.middleware.components.memory import VDBMemoryCollection

folder, who, size, batches = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
memory = VDBMemoryCollection(folder)
print("ready", flush=True)
sys.stdin.readline()
for batch in range(batches):
    ids = [f"{who}-{batch}-{n}" for n in range(size)]
    memory.insert_batch([f"text of {id}" for id in ids], ids=ids, vectors=[[1, batch]] * size)
    memory.upsert("shared", f"by {who}", vector=[2, 1])
    print(*ids, flush=True)
"""


def writer(folder: Path, who: str, size: int, batches: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), who, str(size), str(batches)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_processes_write_at_once_from_the_first_insert_on(tmp_path: Path) -> None:
    writers = [writer(tmp_path, who, 5, 30) for who in ("a", "b")]
    for process in writers:  # neither has made the collection yet
        tell(process)
    said = [process.communicate(timeout=300)[0].split() for process in writers]
    assert [process.returncode for process in writers] == [0, 0]
    ids = [id_ for one in said for id_ in one]
    assert len(ids) == 2 * 5 * 30
    with VDBMemoryCollection(tmp_path, create=False) as memory:
        assert memory.count() == len(ids) + 1
        records = memory.get_batch([*ids, "shared"])
    assert [record.text for record in records[:-1] if record] == [f"text of {i}" for i in ids]
    assert records[-1] is not None
    assert records[-1].text in ("by a", "by b")


@pytest.mark.parametrize(("size", "lines"), [(1, 3), (1, 130), (400, 8)])
def test_what_was_acknowledged_outlives_kill_9(tmp_path: Path, size: int, lines: int) -> None:
    process = writer(tmp_path, "w", size, 10_000)
    tell(process)
    assert process.stdout is not None
    said = "".join(process.stdout.readline() for _ in range(lines))
    process.kill()
    said += process.stdout.read()  # communicate() would lose what readline() has read ahead
    process.communicate()
    ids = said[: said.rfind("\n")].split()  # a line that is cut off acknowledges nothing
    with VDBMemoryCollection(tmp_path, create=False) as memory:
        records = memory.get_batch(ids)
        assert [record.text for record in records if record] == [f"text of {i}" for i in ids]
        # The batch at work when it died is there as a whole, or not at all.
        batches, rest = divmod(memory.count({"id": {"!=": "shared"}}), size)
        assert rest == 0
        assert batches - len(ids) // size in (0, 1)
        memory.insert("goes on", record_id="later", vector=[1, 1])  # no lock is left behind
        assert memory.search([1, 1], k=1, where={"id": "later"})[0].text == "goes on"


def test_threads_share_a_collection(tmp_path: Path) -> None:
    with VDBMemoryCollection(tmp_path) as memory, ThreadPoolExecutor(8) as threads:

        def work(n: int) -> str:
            direction = [math.cos(n / 10), math.sin(n / 10)]
            made = memory.insert(f"text {n}", vector=direction)
            memory.upsert("shared", f"by {n}", vector=[1, 1])
            assert memory.search(direction, k=1)[0].text == f"text {n}"
            return made

        ids = list(threads.map(work, range(2, 62)))
        assert len(set(ids)) == 60
        assert memory.count() == 61
        assert None not in memory.get_batch(ids)


def test_an_id_is_given_to_one_of_two_at_once(tmp_path: Path) -> None:
    def insert(n: int) -> bool:
        # Two objects on the same files, as two processes would have.
        with VDBMemoryCollection(tmp_path) as memory:
            try:
                memory.insert(f"text {n}", record_id="the one", vector=[1])
            except DuplicateIdError:
                return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(insert, range(16))) == 1
    with VDBMemoryCollection(tmp_path) as memory:
        assert memory.count() == 1
