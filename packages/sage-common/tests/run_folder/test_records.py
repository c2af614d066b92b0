"""The run folder: records that live as long as their process, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sage.common.run_folder import RunRecord, read_records, run_root, start_ticks

HOLDER = """
import os, signal, subprocess, sys
from sage.common.run_folder import RunRecord
record = RunRecord("service", name="held")
child = None
if "fork" in sys.argv and (child := os.fork()) == 0:
    signal.alarm(60)  # of two children only the other one is ended by the test
    signal.pause()
if "exec" in sys.argv:
    child = subprocess.Popen(["sleep", "600"], close_fds=False).pid
if "pass" in sys.argv:
    child = subprocess.Popen(["sleep", "600"], pass_fds=(record.fileno(),)).pid
print(child, flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGE_RUN_ROOT", str(tmp_path / "run"))
    return tmp_path / "run"


def start_holder(*how: str) -> tuple[subprocess.Popen[str], int | None]:
    """Start a process with a record; also returns the id of the child that it has by then."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *how], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = holder.stdout.readline().strip()
    holder.stdout.close()
    return holder, None if child == "None" else int(child)


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_record_is_seen_changed_and_gone(root: Path) -> None:
    record = RunRecord("service", name="one", state="loading")
    (facts,) = read_records()
    assert (facts["kind"], facts["pid"], facts["state"]) == ("service", os.getpid(), "loading")
    assert facts["start_ticks"] == start_ticks(os.getpid())
    record.update(state="ready", requests_done=3)
    (facts,) = read_records()
    assert (facts["name"], facts["state"], facts["requests_done"]) == ("one", "ready", 3)
    record.remove()
    record.remove()
    record.update(state="too late")
    assert read_records() == []
    assert files(root) == []


def test_only_its_user_may_look_into_the_folder(root: Path) -> None:
    RunRecord("service", name="one").remove()
    assert root.stat().st_mode & 0o777 == 0o700


def test_the_root_is_read_at_each_call(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_root() == root
    assert read_records() == []  # no folder yet, and none is made by looking
    assert not root.exists()
    monkeypatch.setenv("SAGE_RUN_ROOT", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_root() == tmp_path / ".sage" / "run"


@pytest.mark.parametrize("how", [[], ["exec"], ["fork"], ["fork", "exec"]])
def test_a_record_dies_with_its_process_even_where_children_live_on(
    how: list[str], root: Path
) -> None:
    holder, child = start_holder(*how)
    assert [facts["pid"] for facts in read_records()] == [holder.pid]
    try:
        holder.kill()
        holder.wait()
        if child is not None:
            os.kill(child, 0)  # it lives
        until = time.monotonic() + 60
        while read_records() and time.monotonic() < until:
            time.sleep(0.01)  # a child that was just forked lets go of the lock at its first step
        assert read_records() == []
        assert files(root) == []
    finally:
        if child is not None:
            os.kill(child, signal.SIGKILL)


def test_a_process_that_is_passed_the_lock_keeps_the_record() -> None:
    holder, child = start_holder("pass")
    assert child is not None
    pidfd = os.pidfd_open(child)
    holder.kill()
    holder.wait()
    assert len(read_records()) == 1
    os.kill(child, signal.SIGKILL)
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)
    assert read_records() == []


def test_a_forked_child_cannot_take_its_parents_record_away() -> None:
    record = RunRecord("service", name="one")
    child = os.fork()
    if child == 0:
        record.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(read_records()) == 1
    record.remove()


def test_readers_at_once_agree_and_do_not_disturb_makers() -> None:
    """Records come and go while many read: a live one is never lost, a dead one never seen."""
    dead, _ = start_holder()
    dead.kill()
    dead.wait()
    lasting = RunRecord("service", name="lasting")
    looked = []

    def come_and_go(number: int) -> None:
        for turn in range(30):
            record = RunRecord("service", name=f"{number}-{turn}")
            assert record.facts["name"] in {facts["name"] for facts in read_records()}
            record.update(state="changed")
            record.remove()

    def look() -> None:
        looked.extend({facts["name"] for facts in read_records()} for _ in range(100))

    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(come_and_go, number) for number in range(4)]
        runs += [pool.submit(look) for _ in range(4)]
        for run in runs:
            run.result()
    assert all("lasting" in names for names in looked)
    assert not any("held" in names for names in looked)
    lasting.remove()
    assert files(run_root()) == []


def test_what_is_no_record_is_left_out_and_left_alone(root: Path) -> None:
    RunRecord("service", name="one").remove()
    foreign = ["mine.json", "mine.lock", "servers-1-0123abcd.json", "service-1-0123abcde.json"]
    for name in foreign:
        (root / name).write_text("{}")
        os.utime(root / name, (0, 0))
    assert read_records() == []
    assert files(root) == foreign


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_record_that_cannot_be_read_goes_when_nobody_holds_it(text: str, root: Path) -> None:
    RunRecord("service", name="one").remove()
    record = root / "service-1-0123abcd.json"
    record.write_text(text)
    with record.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert read_records() == []
        assert len(files(root)) == 2
    assert read_records() == []
    assert files(root) == []


def test_a_lock_left_without_facts_goes_when_it_is_old(root: Path) -> None:
    root.mkdir()
    new, old = root / "server-1-0123abcd.lock", root / "server-2-0123abcd.lock"
    for lock in (new, old):
        lock.touch()
    os.utime(old, (0, 0))
    assert read_records() == []
    assert files(root) == [new.name]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can look on as another user")
def test_records_of_another_user_are_left_out(root: Path) -> None:
    record = RunRecord("service", name="one")
    for path in root.iterdir():
        path.chmod(0o666)
        os.chown(path, 65534, 65534)
    assert read_records() == []
    record.remove()


def test_a_half_written_change_is_never_read(root: Path) -> None:
    record = RunRecord("service", name="one")
    (new,) = [path.with_suffix(".new") for path in root.glob("*.json")]
    new.write_text("{")
    assert read_records()[0]["name"] == "one"
    record.update(state="ready")
    assert json.loads(next(root.glob("*.json")).read_text())["state"] == "ready"
    record.remove()


def test_the_start_of_a_process_tells_it_from_a_later_one() -> None:
    one = subprocess.Popen(["sleep", "600"])
    began = start_ticks(one.pid)
    assert began is not None
    assert began == start_ticks(one.pid)
    assert began >= (start_ticks(os.getpid()) or 0)
    one.kill()
    one.wait()
    assert start_ticks(one.pid) is None
