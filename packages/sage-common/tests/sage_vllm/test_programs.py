"""A service in programs as people write them: each works, or says what is in the way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.host.socket_folder import (
    VARIABLE,
    remove_abandoned,
)

SERVICE = """
import sys
from sage.common.components.sage_vllm import VLLMService

def service(mode="inline"):
    return VLLMService({
        "model_id": "test/tiny-chat", "model_root": sys.argv[1],
        "engine": {"kv_cache_memory_bytes": 64 << 20, "dtype": "float32"}, "engine_mode": mode,
        "sampling": {"temperature": 0, "max_tokens": 4},
    })
"""


def run(
    program: str, model_root: Path, tmp_path: Path, *, as_file: bool = False, code: int = 0
) -> str:
    """Run a program to its end; return what it printed, and see that it complained of nothing."""
    if as_file:
        file = tmp_path / "program.py"
        file.write_text(SERVICE + program)
        command = [sys.executable, str(file), str(model_root)]
    else:
        command = [sys.executable, "-c", SERVICE + program, str(model_root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "died" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("as_file", [True, False])
def test_from_a_file_and_from_the_command_line(
    model_root: Path, tmp_path: Path, *, as_file: bool
) -> None:
    program = """
with service() as opened:
    print(len(opened.generate("Hello")))
"""
    assert run(program, model_root, tmp_path, as_file=as_file) == "1\n"


def test_a_forked_child_is_told_why_and_the_parent_goes_on(
    model_root: Path, tmp_path: Path
) -> None:
    program = """
import os
opened = service()
opened.open()
before = opened.generate("Hello")[0]["text"]
child = os.fork()
if child == 0:
    calls = (
        lambda: opened.generate("Hello"), lambda: opened.stream("Hello"), opened.stats,
        lambda: opened.embed("Hello"), lambda: opened.count_tokens("Hello"),
    )
    for call in calls:
        try:
            call()
        except RuntimeError as error:
            print(error, flush=True)
    opened.close()
    os._exit(0)  # as multiprocessing's forks end: torch does not survive an interpreter's end there
_, status = os.waitpid(child, 0)
print(status, opened.generate("Hello")[0]["text"] == before)
opened.close()
"""
    *refused, last = run(program, model_root, tmp_path).splitlines()
    assert len(refused) == 5
    for line in refused:
        assert "a fork without its threads; use it there, or have a process started by" in line
    assert last == "0 True"


def test_with_a_running_loop(model_root: Path, tmp_path: Path) -> None:
    program = """
import asyncio

async def main():
    with service() as opened:
        said = opened.generate("Hello")[0]["text"]
        calls = [asyncio.wrap_future(opened.generate_async("Hello")) for _ in range(8)]
        print([result[0]["text"] == said for result in await asyncio.gather(*calls)])

asyncio.run(main())
"""
    assert run(program, model_root, tmp_path) == f"{[True] * 8}\n"


def test_on_a_thread_that_is_not_main(model_root: Path, tmp_path: Path) -> None:
    program = """
import threading

def work():
    with service() as opened:
        print(len(opened.generate("Hello")))

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    assert run(program, model_root, tmp_path) == "1\n"


@pytest.mark.parametrize("way", ["", "sys.exit()", "thread = None"])
def test_an_interpreter_that_ends_with_requests_in_flight_ends_quietly(
    model_root: Path, tmp_path: Path, way: str
) -> None:
    program = f"""
import time
opened = service()
opened.open()
futures = [opened.generate_async(str(n), max_tokens=400, ignore_eos=True) for n in range(64)]
stream = opened.stream("Hello", max_tokens=400, ignore_eos=True)
next(stream)
print("in flight", not futures[-1].done(), flush=True)
{way}
"""
    assert run(program, model_root, tmp_path) == "in flight True\n"


def test_a_closed_service_does_not_open_again(model_root: Path, tmp_path: Path) -> None:
    program = """
opened = service()
with opened:
    pass
try:
    opened.open()
except RuntimeError as error:
    print(error)
with service() as another:
    print(len(another.generate("Hello")))
"""
    refused, works = run(program, model_root, tmp_path).splitlines()
    assert refused.endswith("it has been closed, and does not open again; make a new one")
    assert works == "1"


@pytest.fixture
def sockets(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the programs of a test have the folders of their engines' sockets."""
    monkeypatch.setenv(VARIABLE, str(short_folder))
    return short_folder


def test_an_engine_of_its_own_process_in_all_these_programs(
    model_root: Path, tmp_path: Path, sockets: Path
) -> None:
    program = """
import asyncio, os, threading
from pathlib import Path

folder = Path(os.environ["VLLM_RPC_BASE_PATH"])
with service() as inline:  # vLLM remembers the environment of this one's start
    said = inline.generate("Hello")[0]["text"]
    assert not list(folder.glob("*/*"))
opened = service("process")
thread = threading.Thread(target=opened.open)
thread.start()
thread.join()
print(opened.generate("Hello")[0]["text"] == said, len(list(folder.glob("*/*"))) > 0)

async def main():
    calls = [asyncio.wrap_future(opened.generate_async("Hello")) for _ in range(8)]
    print([result[0]["text"] == said for result in await asyncio.gather(*calls)])

asyncio.run(main())
child = os.fork()
if child == 0:
    try:
        opened.generate("Hello")
    except RuntimeError as error:
        print(error, flush=True)
    opened.close()
    os._exit(0)
print(os.waitpid(child, 0)[1], opened.generate("Hello")[0]["text"] == said, flush=True)
futures = [opened.generate_async(str(n), max_tokens=400, ignore_eos=True) for n in range(64)]
stream = opened.stream("Hello", max_tokens=400, ignore_eos=True)
next(stream)
print("in flight", not futures[-1].done(), flush=True)
"""
    thread, running_loop, refused, *last = run(program, model_root, tmp_path).splitlines()
    assert thread == "True True"
    assert running_loop == str([True] * 8)
    assert "a fork without its threads" in refused
    assert last == ["0 True", "in flight True"]
    assert list(sockets.iterdir()) == []


def test_engines_and_hosts_that_are_killed_leave_no_sockets(
    model_root: Path, tmp_path: Path, sockets: Path
) -> None:
    program = """
import logging, os, signal
from pathlib import Path

logging.disable()  # that an engine died is told, and rightly

def folders():
    return list(Path(os.environ["VLLM_RPC_BASE_PATH"]).iterdir())

def main():
    with service("process") as closed:
        print(len(folders()), len(list(folders()[0].iterdir())) > 0)
        said = closed.generate("Hello")[0]["text"]
        engines = [folder for folder in Path("/proc").glob("[0-9]*") if is_engine(folder)]
        os.kill(int(engines[0].name), signal.SIGKILL)
        print(closed.generate("Hello")[0]["text"] == said, len(folders()))
    print(len(folders()), flush=True)
    service("process").open()
    print(len(folders()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

def is_engine(folder):
    try:
        name, above = (folder / "comm").read_text(), parents(folder)
    except (FileNotFoundError, ProcessLookupError):  # a process that has ended by now
        return False
    return "EngineCor" in name and str(os.getpid()) in above

def parents(folder):
    parent = folder
    found = []
    while parent.name not in ("0", "1"):
        fields = (parent / "stat").read_text().rpartition(")")[2].split()
        parent = Path("/proc") / fields[1]
        found.append(parent.name)
    return found

if __name__ == "__main__":
    main()
"""
    printed = run(program, model_root, tmp_path, as_file=True, code=-signal.SIGKILL)
    assert printed.splitlines() == ["1 True", "True 1", "0", "1"]
    (left,) = sockets.iterdir()
    end = time.monotonic() + 60
    while left.exists() and time.monotonic() < end:  # its engine's processes end
        time.sleep(0.1)
        remove_abandoned()
    assert list(sockets.iterdir()) == []
