"""A batch job in a process of its own: killed, interrupted, out of disk, started twice."""

from __future__ import annotations

import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.testing.echo_engine import write_echo_model
from sage.common.model_registry.vllm_registry import import_model

pytestmark = pytest.mark.timeout(600)

JOB = Path(__file__).with_name("checkpointed_job.py")
RECORDS = 2000
PATIENCE = 120.0


class Job:
    """The job on one folder."""

    def __init__(self, folder: Path, form: str) -> None:
        self.folder, self.form = folder, form
        import_model("test/echo", write_echo_model(folder / "echo"), root=folder / "models")
        records = ({"id": number} for number in range(RECORDS))
        (folder / "in.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))

    def start(self, *arguments: float) -> subprocess.Popen[str]:
        command = [sys.executable, JOB, self.folder, self.form, *arguments]
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def run_to_the_end(self) -> int:
        """Return how many records started after one that came later."""
        with self.start(0.0) as process:
            output, errors = process.communicate()
        assert process.returncode == 0, errors
        return int(output.removeprefix("overtaken "))

    @property
    def outputs(self) -> dict[str, bytes]:
        files = [*self.folder.glob("out"), *self.folder.glob("out/*"), self.folder / "failed.jsonl"]
        return {file.name: file.read_bytes() for file in files if file.is_file()}

    @property
    def committed(self) -> int:
        """How many records are done."""
        (self.folder / "checkpoint").mkdir(exist_ok=True)
        with closing(sqlite3.connect(self.folder / "checkpoint" / "checkpoint.sqlite")) as store:
            query = "SELECT value FROM checkpoint WHERE key = 'position'"
            try:
                return int(store.execute(query).fetchone()[0])
            except sqlite3.OperationalError:
                return 0  # killed before it had made the table

    def wait_for_output(self) -> None:
        """Wait until something was committed."""
        wait_until(lambda: self._written > 0)

    def wait_for_a_commit(self) -> None:
        """Wait until the process that runs has committed more than those before it."""
        least = self._written

        def has_grown() -> bool:  # at first, what was not committed is cut off
            nonlocal least
            written = self._written
            least = min(least, written)
            return written > least

        wait_until(has_grown)
        log = self.folder / "checkpoint" / "checkpoint.sqlite-wal"  # each commit is added to it
        before = log.stat().st_mtime_ns
        wait_until(lambda: log.stat().st_mtime_ns != before)

    @property
    def _written(self) -> int:
        """How many bytes of the output are in its files."""
        written = 0
        partial = self.folder / "out.partial"
        for file in partial.iterdir() if partial.is_dir() else [partial]:
            with suppress(FileNotFoundError):
                written += file.stat().st_size
        return written


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def new_job(folder: Path, form: str = "jsonl") -> Job:
    folder.mkdir()
    return Job(folder, form)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The outputs of whole runs, by format."""
    folder = tmp_path_factory.mktemp("undisturbed")
    outputs = {}
    for form in ("jsonl", "parquet", "stems"):
        job = new_job(folder / form, form)
        overtaken = job.run_to_the_end()
        assert (overtaken > RECORDS / 4) == (form == "stems")
        outputs[form] = job.outputs
    return outputs


def test_the_undisturbed_output_is_what_was_meant(undisturbed: dict[str, dict[str, bytes]]) -> None:
    lines = [json.loads(line) for line in undisturbed["jsonl"]["out"].splitlines()]
    by_stem = [json.loads(line) for line in undisturbed["stems"]["out"].splitlines()]
    stem = re.compile("stem [0-9]: ")
    assert [{**each, "generated": stem.sub("", each["generated"])} for each in by_stem] == lines
    kept = [number for number in range(RECORDS) if number % 7 and number % 100 != 99]
    assert [line["id"] for line in lines] == [n for n in kept for _ in range(1 + n % 2)]
    failed = undisturbed["jsonl"]["failed.jsonl"].splitlines()
    assert [json.loads(line)["record"]["id"] for line in failed] == list(range(99, RECORDS, 100))
    assert len(undisturbed["parquet"]) == 1 + -(-len(lines) // 300)


@pytest.mark.parametrize(("form", "kills"), [("jsonl", 20), ("stems", 20), ("parquet", 6)])
def test_kills_at_random_moments_change_nothing_of_the_output(
    tmp_path: Path, undisturbed: dict[str, dict[str, bytes]], form: str, kills: int
) -> None:
    job = new_job(tmp_path / "job", form)
    committed = set()
    latest = 0.0
    for kill in range(kills):
        with job.start(0.01) as process:
            if kill % 2:
                time.sleep(random.uniform(0.0, latest))
            else:  # after a commit, however long that takes
                began = time.monotonic()
                job.wait_for_a_commit()
                latest = min(2.0, 2 * (time.monotonic() - began))
                time.sleep(random.uniform(0.0, 0.3))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        committed.add(job.committed)
    assert len(committed) > kills / 4  # they were spread over the run
    job.run_to_the_end()
    assert job.outputs == undisturbed[form]
    job.run_to_the_end()  # there is nothing to do
    assert job.outputs == undisturbed[form]


def test_ctrl_c_keeps_all_that_was_delivered(
    tmp_path: Path, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    job = new_job(tmp_path / "job")
    with job.start(0.005) as process:
        job.wait_for_output()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (130, -signal.SIGINT)
    *_, interrupt, told = errors.splitlines()
    assert interrupt == "KeyboardInterrupt"
    assert told.endswith("run the same program again, and it goes on from there")
    delivered = (tmp_path / "job" / "out.partial").read_bytes()
    assert undisturbed["jsonl"]["out"].startswith(delivered)
    job.run_to_the_end()
    assert job.outputs == undisturbed["jsonl"]


@pytest.mark.parametrize("most_bytes", [14_000, 40_000, 100_000])
def test_a_full_disk_ends_the_run_which_then_goes_on(
    tmp_path: Path, undisturbed: dict[str, dict[str, bytes]], most_bytes: int
) -> None:
    job = new_job(tmp_path / "job")
    with job.start(0.001, most_bytes) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "File too large" in errors or "disk" in errors
    job.run_to_the_end()
    assert job.outputs == undisturbed["jsonl"]


def test_a_second_process_is_refused_and_the_first_not_disturbed(
    tmp_path: Path, undisturbed: dict[str, dict[str, bytes]]
) -> None:
    job = new_job(tmp_path / "job")
    with job.start(0.002) as first:
        job.wait_for_output()
        first.send_signal(signal.SIGSTOP)  # or it might have ended before the second is there
        with job.start(0.0) as second:
            _, errors = second.communicate(timeout=PATIENCE)
        first.send_signal(signal.SIGCONT)
        _, first_errors = first.communicate(timeout=PATIENCE)
    assert second.returncode == 1
    assert "another run is using it; wait for its end or take another folder" in errors
    assert first.returncode == 0, first_errors
    assert job.outputs == undisturbed["jsonl"]
