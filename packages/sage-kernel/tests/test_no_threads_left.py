"""The system gives no more threads: a real limit on the memory of a real process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

LIMITED = """
    import resource, threading
    from pathlib import Path

    from sage.common.core.functions import MapFunction
    from sage.common.service import BaseService
    from sage.kernel.api import LocalEnvironment

    def leave_room_for_threads(count):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + count * 2**30 + 2**29
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        threading.stack_size(2**30)
"""

PIPELINE = """
    class Echo(BaseService):
        def cleanup(self):
            print("service closed")

    class Identity(MapFunction):
        def execute(self, record):
            return record
        def cleanup(self):
            print("function cleaned up")

    env = LocalEnvironment("crowded", {"close_timeout": 1000})
    env.register_service("echo", Echo)
    env.from_collection(range(100)).map(Identity, parallelism=8).sink(lambda _: None)
    leave_room_for_threads(3)
    try:
        env.submit()
    except RuntimeError as error:
        print(error)
    print(env.metrics().state)
"""

CALL = """
    class Stay(BaseService):
        max_concurrency = None
        def process(self, payload):
            ran.append(payload)
            assert release.wait(10)

    ran, release = [], threading.Event()
    with LocalEnvironment("crowded") as env:
        env.register_service("stay", Stay)
        proxy = env.service("stay")
        leave_room_for_threads(3)
        calls = []
        for number in range(100):
            calls.append(proxy.call_async(number))
            if calls[-1].done():  # the others wait
                print(calls.pop().exception())
                break
        release.set()
        for call in calls:
            call.result(10)
        proxy.call_async("last").result(10)
    print(ran == [*range(len(calls)), "last"])
"""


def run(code: str) -> list[str]:
    program = textwrap.dedent(LIMITED) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="it needs a limit on the address space")
def test_a_pipeline_whose_threads_cannot_start_says_so_and_cleans_up() -> None:
    assert run(PIPELINE) == [
        *["function cleaned up"] * 8,
        "service closed",
        "can't start new thread",
        "failed",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="it needs a limit on the address space")
def test_a_call_that_gets_no_thread_is_refused_and_never_runs() -> None:
    assert run(CALL) == ["can't start new thread", "True"]
