"""The process that works on a job: it trains, then begins anew as the one that verifies.

The second half replaces the first by ``exec``: torch's memory is given back before vLLM takes any,
the process keeps its id, its lock and its parent, and whoever watches sees one job.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path

from sage.tuning.job.writer import TRAINED, JobWriter
from sage.tuning.training.progress import Stop


def main(arguments: list[str]) -> int:
    """Work on the job in the folder ``arguments[0]``; return the exit code.

    The other arguments are the descriptors of its lock and of the pipe that ends with the process
    that started this one, and how it is scheduled: ``idle`` or ``low``.
    """
    folder, lock, lifeline, share = Path(arguments[0]), *map(int, arguments[1:3]), arguments[3]
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ours already, unless started by hand
    os.set_inheritable(lock, False)
    os.set_inheritable(lifeline, False)
    _give_way(idle=share == "idle")
    _die_with_parent(lifeline)
    stop = Stop()
    stop.listen()
    job = JobWriter(folder)
    try:
        if not (folder / TRAINED).is_file():
            from sage.tuning.training.run import CancelledError, train

            try:
                train(job, stop)
            except CancelledError:
                job.enter("cancelled")
                return 0
            os.set_inheritable(lock, True)
            os.set_inheritable(lifeline, True)
            sys.stdout.flush()
            again = [sys.executable, "-P", "-m", "sage.tuning.worker", *arguments]
            os.execv(sys.executable, again)
        from sage.tuning.verification.run import verify

        verify(job, stop)
    except Exception as error:  # noqa: BLE001 - whatever it is, the job has to say so
        traceback.print_exc()
        job.tell("error", error=type(error).__name__, message=str(error)[:2000])
        job.enter("failed")
        return 1
    return 0


def _give_way(*, idle: bool) -> None:
    """Leave the processors to whoever serves."""
    # Linux may share the processors among sessions first and only then within each (autogroup):
    # this process is a session of its own, and would get half of them whatever its priority. With
    # 9 it gets an eighth of what serves: enough to advance where callers never pause.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("9" if idle else "5", encoding="ascii")
    if idle:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    if os.getpriority(os.PRIO_PROCESS, 0) < 5:
        os.setpriority(os.PRIO_PROCESS, 0, 5)


def _die_with_parent(lifeline: int) -> None:
    def wait() -> None:
        os.read(lifeline, 1)  # nothing is ever written: it returns when the writer is gone
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
