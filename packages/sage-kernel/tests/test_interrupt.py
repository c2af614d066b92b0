"""Ctrl-C and the end of the interpreter, with real processes and signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PIPELINE = """
    import sys, threading
    from pathlib import Path

    from sage.common.core.functions import SinkFunction
    from sage.common.service import BaseService
    from sage.kernel.api import LocalEnvironment

    folder = Path(sys.argv[1])

    class Marked(BaseService):
        def process(self, payload):
            return payload
        def stop(self):
            (folder / "stop").touch()
        def cleanup(self):
            (folder / "cleanup").touch()

    class Sink(SinkFunction):
        count = 0
        def execute(self, record):
            self.count += 1
            self.call_service("marked", record)
            if self.count == 1000:
                print("running", flush=True)
        def cleanup(self):
            (folder / "flushed").write_text(str(self.count))

    env = LocalEnvironment("interrupted")
    env.register_service("marked", Marked)
    env.from_source(lambda: 1).map(lambda x: x, parallelism=2).sink(Sink)
    try:
        env.submit()
    finally:
        left = [t for t in threading.enumerate() if "sage" in t.name]
        for thread in left:
            thread.join(5)  # it may be at its very end
        print("threads left:", [t.name for t in left if t.is_alive()])
"""


@contextmanager
def start(code: str, *arguments: Path | str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # else one that does not hear Ctrl-C would never end


def interrupt(code: str, folder: Path) -> None:
    """Press Ctrl-C once a program runs; it ends by that, with no thread left."""
    with start(code, folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert out == "threads left: []\n"


def test_ctrl_c_ends_a_pipeline_within_seconds_and_closes_everything(tmp_path: Path) -> None:
    interrupt(PIPELINE, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"stop", "cleanup", "flushed"}
    assert int((tmp_path / "flushed").read_text()) >= 1000


CLOSING = """
    import sys, threading, time
    from pathlib import Path

    from sage.common.service import BaseService
    from sage.kernel.api import LocalEnvironment

    class Marked(BaseService):
        def cleanup(self):
            Path(sys.argv[1], "cleanup").touch()

    def never_returns(record):
        print("running", flush=True)
        while env.metrics().state == "running":
            time.sleep(0.01)
        print("closing", flush=True)
        threading.Event().wait()

    env = LocalEnvironment("interrupted", {"close_timeout": 1000})
    env.register_service("marked", Marked)
    env.from_collection([1]).sink(never_returns)
    env.submit()
"""


def test_a_second_ctrl_c_ends_the_wait_for_operators_and_closes_the_services(
    tmp_path: Path,
) -> None:
    with start(CLOSING, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "closing\n"  # two at once would be one
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for the operator
            process.wait(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert err.count("KeyboardInterrupt") == 2
    assert (tmp_path / "cleanup").exists()


ANOTHER_THREAD = """
    import signal, threading
    from sage.kernel.api import LocalEnvironment

    def source():
        yield 1
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        threading.Event().wait()

    env = LocalEnvironment("interrupted", {"close_timeout": 0.1})
    env.from_source(source).sink(print)
    env.submit()
"""


def test_ctrl_c_works_whichever_thread_the_system_hands_it_to() -> None:
    with start(ANOTHER_THREAD) as process:
        out, err = process.communicate(timeout=30)
    assert out == "1\n"
    assert err.rstrip().endswith("KeyboardInterrupt")


KEPT = """
    import asyncio, sys, time
    from sage.kernel.api import LocalEnvironment

    def numbers():
        for number in range(10**6):
            if number == 60:  # for more than half a second: some is committed
                print("running", flush=True)
            time.sleep(0.01)
            yield number

    async def main(env):
        await env.asubmit(checkpoint="kept")

    with LocalEnvironment("kept") as env:
        env.from_source(numbers).sink(lambda _: None)
        if sys.argv[1] == "submit":
            env.submit(checkpoint="kept")
        elif sys.argv[1] == "wait":
            env.submit(autostop=False, checkpoint="kept")
            env.wait()
        else:
            asyncio.run(main(env))
"""


@pytest.mark.parametrize("way", ["submit", "wait", "asubmit"])
def test_ctrl_c_says_that_the_work_is_kept_and_shows_the_programs_lines_alone(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with start(KEPT, way) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT)
    first, *frames, interrupt, note = err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert frames
    assert all(line.startswith('  File "<string>"') for line in frames)
    assert interrupt == "KeyboardInterrupt"
    assert note == (
        "what is done is kept in the checkpoint 'kept': run the same program again, and it goes "
        "on from there"
    )


STUCK_CALL = """
    from sage.common.service import BaseService, ServiceTimeoutError
    from sage.kernel.api import LocalEnvironment
    import threading

    class Stuck(BaseService):
        def process(self, payload):
            threading.Event().wait()

    with LocalEnvironment("stuck") as env:
        env.register_service("stuck", Stuck)
        try:
            env.call_service("stuck", 1, timeout=0.1)
        except ServiceTimeoutError:
            print("timed out")
"""

STUCK_OPERATOR = """
    from sage.kernel.api import LocalEnvironment
    import threading

    env = LocalEnvironment("stuck", {"close_timeout": 0.1})
    env.from_collection([1]).sink(lambda _: threading.Event().wait())
    env.submit(autostop=False)
    env.close()
    print("timed out")
"""


@pytest.mark.parametrize("code", [STUCK_CALL, STUCK_OPERATOR], ids=["call", "operator"])
def test_what_never_returns_does_not_keep_the_interpreter_from_ending(code: str) -> None:
    with start(code) as process:
        out, _ = process.communicate(timeout=40)
    assert (process.returncode, out) == (0, "timed out\n")


def test_importing_the_kernel_loads_neither_an_engine_nor_its_libraries() -> None:
    code = """
        import sys
        import sage.kernel.api, sage.kernel.runtime.service
        heavy = {"vllm", "torch", "transformers", "ray", "lancedb", "openai", "numpy"}
        print(sorted(heavy & set(sys.modules)))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, check=True, timeout=40,
    )  # fmt: skip
    assert out.stdout == "[]\n"


COROUTINES = """
    import asyncio, sys, threading
    from pathlib import Path

    from sage.common.core.functions import MapFunction
    from sage.kernel.api import LocalEnvironment

    class Waits(MapFunction):
        begun = ended = 0
        async def execute(self, record):
            self.begun += 1
            if self.begun == 100:
                print("running", flush=True)
            try:
                await asyncio.sleep(60)
            finally:
                self.ended += 1
        def cleanup(self):
            Path(sys.argv[1], "ended").write_text(str(self.begun - self.ended))

    env = LocalEnvironment("interrupted")
    env.from_source(lambda: 1).map(Waits).sink(lambda _: None)
    try:
        env.submit()
    finally:
        left = [t for t in threading.enumerate() if "sage" in t.name]
        for thread in left:
            thread.join(5)  # it may be at its very end
        print("threads left:", [t.name for t in left if t.is_alive()])
"""


def test_ctrl_c_cancels_the_coroutines(tmp_path: Path) -> None:
    interrupt(COROUTINES, tmp_path)
    assert (tmp_path / "ended").read_text() == "0"
