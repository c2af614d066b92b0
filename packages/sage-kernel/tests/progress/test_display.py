"""submit(progress=True) in terminals, wide and narrow, and in pipes."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.kernel.runtime.progress.display import logs_above

InTerminal = Callable[..., Any]
InPipe = Callable[..., subprocess.CompletedProcess[str]]

# Where it exists, what has to be seen of a run was seen, and it may come to its end.
SEEN = """
    import os, time
    from pathlib import Path

    def wait_until_seen():
        while not Path(os.environ["SEEN"]).exists():
            time.sleep(0.01)
"""
# 200 records, of which an async operator holds 20 at a time for 0.1 s: about a second
PIPELINE = f"""{SEEN}
    import logging, sys, threading
    from concurrent.futures import Future
    from sage.common.core.functions import AsyncMapFunction
    from sage.kernel.api import LocalEnvironment

    class Slow(AsyncMapFunction):
        max_in_flight = 20
        def submit(self, record):
            future = Future()
            threading.Timer(0.1, self.answer, (future, record)).start()
            return future
        def answer(self, future, record):
            if record == 199 and "SEEN" in os.environ:
                wait_until_seen()
            if record % 20 == 7:
                future.set_exception(ValueError(f"poison {{record}}"))
            else:
                future.set_result(record)

    def write(record):
        if record % 50 == 0:
            print("wrote", record)

    logging.basicConfig(format="%(message).20s")
    env = LocalEnvironment("papers")
    stream = env.from_collection(range(200), name="read").map(Slow, name="gener\\x1bate",
        on_error="skip")
    stream.flatmap(lambda x: (x, x), name="an operator with a name that is rather long" )\\
        .filter(lambda x: x % 2 == 0, name="even").sink(write, name="write")
"""
LOGGED = ["skipped ValueError('"] * 10
FINAL = re.compile(r"papers: ended after [\d.]+ s: 200 read, 200 written, 10 skipped \([\d.,]+/s\)")
RUNNING = re.compile(r"papers: \d+%, \d+ of \d+, .*")


def ends(lines: str) -> list[str]:
    """What is written to a pipe, less the lines on runs that go on: one that lasts has some."""
    return [line for line in lines.splitlines() if not RUNNING.fullmatch(line)]


def test_a_run_is_drawn_in_place_and_leaves_a_clean_terminal(
    in_terminal: InTerminal, tmp_path: Path
) -> None:
    program = f"{PIPELINE}\n    env.submit(progress=True)\n    print('after')"
    terminal = in_terminal(program, SEEN=str(tmp_path / "seen"))
    terminal.read_until(r"operator +in +out +waiting +in flight +errors +per s")
    terminal.read_until(r"read +0 +\d+ +0 +0 +0 +\d+")
    terminal.read_until(r"gener\\x1bate +\d+ +\d+ +\d +\d+ +[1-9]\d* +\d+")
    terminal.read_until(r"papers: \d+%, \d+ of 200, [\d.]+ s, [\d.]+ s left")
    (tmp_path / "seen").touch()
    assert terminal.finish() == 0
    # Only what the program wrote itself is left, and the last line.
    *rest, final, after = terminal.screen
    assert FINAL.fullmatch(final)
    assert after == "after"
    wrote = [line for line in rest if line.startswith("wrote")]
    assert wrote == [f"wrote {n}" for n in (0, 0, 50, 50, 100, 100, 150, 150)]
    assert [line for line in rest if line not in wrote] == LOGGED
    assert terminal.cursor_is_visible


@pytest.mark.parametrize("columns", [40, 70])
def test_a_narrow_terminal_is_not_overrun(
    columns: int, in_terminal: InTerminal, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    terminal = in_terminal(f"{PIPELINE}\n    env.submit(progress=True)", columns, SEEN=str(seen))
    terminal.read_until("an op")
    terminal.read_until("of 200")
    seen.touch()
    assert terminal.finish() == 0
    assert all(len(line) <= columns for line in terminal.drawn if "papers: ended" not in line)
    assert ("in flight" in "\n".join(terminal.drawn)) == (columns == 70)
    assert len([line for line in terminal.screen if "after" in line or "written" in line]) <= 2


@pytest.mark.parametrize("way", ["raises", "sink", "source", "setup"])
def test_an_error_leaves_a_clean_terminal(way: str, in_terminal: InTerminal) -> None:
    terminal = in_terminal(f"""
        import threading, time
        from sage.kernel.api import LocalEnvironment
        from sage.common.core.functions import SinkFunction

        class Sink(SinkFunction):
            def setup(self):
                if {way!r} == "setup":
                    1 / 0
            def execute(self, record):
                if {way!r} == "sink" and record == 40:
                    1 / 0

        def source():
            for n in range(50):
                time.sleep(0.01)
                yield n
            1 / 0

        env = LocalEnvironment("papers")
        stream = env.from_source(source)
        if {way!r} == "raises":
            stream = stream.map(lambda x: 1 / (40 - x))
        stream.sink(Sink)
        try:
            env.submit(progress=True)
        except ZeroDivisionError:
            for thread in threading.enumerate():
                if thread is not threading.main_thread():
                    thread.join(10)  # it may be at its very end
            print("threads:", [t.name for t in threading.enumerate()])
    """)
    assert terminal.finish() == 0
    final, threads = terminal.screen
    assert final.startswith("papers: failed after ")
    assert ("1 failed" in final) == (way != "setup")
    assert threads == "threads: ['MainThread']"
    assert terminal.cursor_is_visible


ENDLESS = """
    import time
    from sage.kernel.api import LocalEnvironment
    env = LocalEnvironment("papers")
    env.from_source(lambda: time.sleep(0.01) or 1).sink(lambda _: None)
"""


def test_ctrl_c_leaves_a_clean_terminal_and_a_cursor(in_terminal: InTerminal) -> None:
    terminal = in_terminal(f"{ENDLESS}\n    env.submit(progress=True)")
    terminal.read_until(r"papers: [\d.]+ s")
    assert not terminal.cursor_is_visible
    terminal.press_ctrl_c()
    assert terminal.finish() != 0
    lines = [line for line in terminal.screen if line != "^C"]
    assert lines[0].removeprefix("^C").startswith("papers: closed before its end after ")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "KeyboardInterrupt"
    assert terminal.cursor_is_visible


def test_a_second_ctrl_c_during_the_end_does_no_harm_either(in_terminal: InTerminal) -> None:
    terminal = in_terminal("""
        import threading
        from sage.kernel.api import LocalEnvironment
        env = LocalEnvironment("papers")
        env.from_collection([1]).sink(lambda _: threading.Event().wait())
        env.submit(progress=True)
    """)
    terminal.read_until(r"papers: 0%, 0 of 1, [\d.]+ s")
    terminal.press_ctrl_c()
    terminal.read_until(r"\^C")
    terminal.raw = terminal.raw.replace("papers: ", "")
    terminal.read_until("papers: ")  # it is still drawn, as the sink does not return
    terminal.press_ctrl_c()
    assert terminal.finish() != 0
    assert terminal.screen[-1] == "KeyboardInterrupt"
    assert terminal.cursor_is_visible


def test_ctrl_c_in_wait_is_a_run_that_was_closed(in_terminal: InTerminal) -> None:
    terminal = in_terminal(f"""{ENDLESS}
    with env:
        env.submit(autostop=False, progress=True)
        env.wait()
    """)
    terminal.read_until(r"papers: [\d.]+ s")
    terminal.press_ctrl_c()
    assert terminal.finish() != 0
    lines = [line.removeprefix("^C") for line in terminal.screen if line != "^C"]
    assert lines[0].startswith("papers: closed before its end after ")
    assert lines[1] == "Traceback (most recent call last):"


def test_a_second_run_is_told_above_the_one_that_is_drawn(
    in_terminal: InTerminal, tmp_path: Path
) -> None:
    program = f"""{SEEN}
    from sage.kernel.api import LocalEnvironment
    with LocalEnvironment("papers") as papers, LocalEnvironment("books") as books:
        for env, count in ((papers, 150), (books, 120)):
            stream = env.from_collection(range(count), name="read")
            stream.sink(lambda n: wait_until_seen() if n == 100 else None, name="write")
            env.submit(autostop=False, progress=True)
            time.sleep(0.2)
        for env in (papers, books):
            env.wait()
    """
    terminal = in_terminal(program, SEEN=str(tmp_path / "seen"))
    told = r"books: \d+%, \d+ of 120, .*"
    terminal.read_until(f"{told}\n")
    (tmp_path / "seen").touch()
    assert terminal.finish() == 0
    first, *rest = terminal.screen
    assert re.fullmatch(told, first)
    others = [line for line in rest if not re.fullmatch(told, line)]  # it is told every 5 s
    outcomes = sorted(line.partition(" after ")[0] for line in others)
    assert outcomes == ["books: ended", "papers: ended"]
    assert terminal.cursor_is_visible


@pytest.mark.parametrize("ending", ["", "env.close()", "env.stop()"])
def test_a_run_that_goes_on_behind_submit_is_shown_until_its_end(
    ending: str, in_terminal: InTerminal
) -> None:
    terminal = in_terminal(f"""{ENDLESS}
    env.submit(autostop=False, progress=True)
    time.sleep(0.5)
    {ending}
    """)
    assert terminal.finish() == 0
    (line,) = terminal.screen
    assert line.startswith("papers: ")
    assert terminal.cursor_is_visible


def test_what_goes_to_a_file_is_no_part_of_the_display(in_terminal: InTerminal) -> None:
    terminal = in_terminal(f"{PIPELINE}\n    env.submit(progress=True)", stdout=subprocess.PIPE)
    assert terminal.finish() == 0
    assert terminal.process.stdout.read().count("wrote") == 8
    assert "wrote" not in terminal.raw
    assert FINAL.fullmatch(terminal.screen[-1])


@pytest.mark.parametrize("extra", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_nothing_moves_where_that_is_not_welcome(
    extra: dict[str, str], in_terminal: InTerminal
) -> None:
    terminal = in_terminal(f"{PIPELINE}\n    env.submit(progress=True)", **extra)
    assert terminal.finish() == 0
    assert "\x1b" not in terminal.raw
    assert FINAL.fullmatch(terminal.screen[-1])


def test_a_pipe_gets_a_line_now_and_then_and_one_at_the_end(in_pipe: InPipe) -> None:
    done = in_pipe("""
        import sys, time
        from sage.kernel.api import LocalEnvironment
        env = LocalEnvironment("papers")
        env.from_collection(range(130), name="read").map(lambda x: 1 / (x % 65), name="invert",
            on_error=lambda failed: None).sink(lambda _: time.sleep(0.015), name="write")
        env.submit(progress=True)
        print("rich" in sys.modules)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"
    assert "\x1b" not in done.stderr
    *running, final = done.stderr.splitlines()
    for line in running:
        assert re.fullmatch(
            r"papers: \d+%, \d+ of 130, [\d.]+ s, [\d.]+ s left \| read \d+ \([\d.]+/s\) \| "
            r"invert \d+, \d errors? \([\d.]+/s\) \| write \d+ \([\d.]+/s\)",
            line,
        )
    ended = re.fullmatch(
        r"papers: ended after ([\d.]+) s: 130 read, 128 written, 2 dead-lettered \([\d.]+/s\)",
        final,
    )
    assert ended
    # After one second, and then every five: once, where nothing holds up the two that it takes.
    assert 1 <= len(running) <= 1 + float(ended[1]) / 5


def test_a_pipe_that_is_closed_does_not_harm_the_run() -> None:
    program = """if True:
        import sys
        from sage.kernel.api import LocalEnvironment
        sys.stderr.close()
        out = []
        env = LocalEnvironment("papers")
        env.from_collection(range(10)).sink(out.append)
        env.submit(progress=True)
        print(len(out))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "10\n"


def test_without_progress_nothing_is_said_and_no_display_is_loaded(in_pipe: InPipe) -> None:
    done = in_pipe("""
        import sys
        from sage.kernel.api import LocalEnvironment
        env = LocalEnvironment("papers")
        env.from_collection([1]).sink(lambda _: None)
        env.submit()
        print([name for name in sys.modules if name.partition(".")[0] == "rich"])
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)


def test_a_checkpoint_that_is_complete_says_so(in_pipe: InPipe, tmp_path: Any) -> None:
    done = in_pipe(f"""
        from sage.kernel.api import LocalEnvironment
        for _ in range(2):
            env = LocalEnvironment("papers")
            env.from_collection(range(3)).sink(lambda _: None)
            env.submit(progress=True, checkpoint={str(tmp_path / "kept")!r})
    """)
    first, second = ends(done.stderr)
    assert first.startswith("papers: ended after ")
    kept = f"in checkpoint {tmp_path / 'kept'}; delete it to run anew"
    assert second == f"papers: ended, nothing was left to do {kept}"


def test_a_run_that_goes_on_says_what_was_done_before(in_pipe: InPipe, tmp_path: Any) -> None:
    done = in_pipe(f"""
        from sage.kernel.api import LocalEnvironment
        def stop_at(limit):
            def check(record):
                if record == limit:
                    raise ValueError("enough")
            return check
        for limit in (30, None):
            env = LocalEnvironment("papers")
            env.from_collection(range(100)).sink(stop_at(limit))
            try:
                env.submit(progress=True, checkpoint={str(tmp_path / "kept")!r})
            except ValueError:
                pass
        print(env.metrics().done_before)
    """)
    first, second = ends(done.stderr)
    assert "done before" not in first
    assert second.startswith("papers: ended after ")
    assert "70 read, 70 written, 30 done before (" in second
    assert done.stdout == "30\n"


def test_a_handler_that_follows_standard_error_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As that of logging.lastResort, which libraries add; two displays at once met it."""
    log = logging.getLogger("test.last.resort")
    assert logging.lastResort is not None
    monkeypatch.setattr(log, "handlers", [logging.lastResort, logging.StreamHandler(sys.stderr)])
    before = sys.stderr
    with logs_above([before]):
        assert log.handlers[1].stream is sys.stderr  # type: ignore[attr-defined]
        monkeypatch.setattr(sys, "stderr", io.StringIO())  # as another display's end does
    assert log.handlers[1].stream is before  # type: ignore[attr-defined]
