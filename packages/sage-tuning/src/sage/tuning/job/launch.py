"""Starting the process that works on a job.

It is a program of its own: a fork would inherit the threads of torch, OpenMP and vLLM, and a thread
would share the interpreter and the memory of whoever serves. The folder's lock is taken here and
handed over, so there is no moment at which the job is started and nobody seems to work on it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from sage.common.components.sage_vllm.fine_tuning import FineTuneJobError
from sage.common.components.sage_vllm.fine_tuning.job_folder import LOCK, LOG
from sage.common.components.sage_vllm.host.usable_cores import usable_cores
from sage.tuning.job.writer import JobWriter

_WAIT_FOR_READERS = 1.0
"""Seconds; whoever looks whether a job is running holds its lock for an instant."""


def launch(folder: Path, *, threads: int | None, idle: bool) -> None:
    """Start the process for a job's folder; raises FineTuneJobError if there is one already.

    It ends when this process does. ``idle`` has it run only while processors have nothing else to
    do.
    """
    with (folder / LOCK).open("a+b") as lock, (folder / LOG).open("ab") as log:
        _take(lock, folder)
        lifeline, held = os.pipe()
        command = [sys.executable, "-P", "-m", "sage.tuning.worker", str(folder)]
        command += [str(lock.fileno()), str(lifeline), "idle" if idle else "low"]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(), lifeline),
                start_new_session=True,
                env=_environment(folder, threads),
            )
        except BaseException:
            os.close(held)
            raise
        finally:
            os.close(lifeline)
        lock.truncate(0)
        lock.write(str(process.pid).encode())
        lock.flush()

    def follow() -> None:
        code = process.wait()
        os.close(held)  # kept until then: its end tells the process that this one is gone
        if code < 0:
            with suppress(OSError):  # the folder may be gone, too
                JobWriter(folder).tell("killed", message=_WHY_KILLED.get(-code, _signalled(-code)))

    threading.Thread(target=follow, name=f"fine-tuning-{process.pid}", daemon=True).start()


_WHY_KILLED: dict[int, str] = {
    signal.SIGKILL: "its process was killed (SIGKILL), by hand, or by the kernel for want of "
    "memory: a smaller micro_batch_size needs less",
    signal.SIGTERM: "it was asked twice to stop, so it did not wait for a checkpoint",
}


def _signalled(number: int) -> str:
    return f"its process was ended by the signal {number} ({signal.strsignal(number)})"


def _take(lock: IO[bytes], folder: Path) -> None:
    end = time.monotonic() + _WAIT_FOR_READERS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                hint = f"wait for it, or run `sage llm fine-tune cancel {folder}`"
                raise FineTuneJobError(folder, "is being worked on already", hint) from None
            time.sleep(0.05)
        else:
            return


def _environment(folder: Path, threads: int | None) -> dict[str, str]:
    """Return the environment: nothing is asked of the hub, and waiting threads do not spin.

    Two default OpenMP threads beside another busy process train twelve times slower, and slow that
    process down.
    """
    count = str(threads or usable_cores())
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_CACHE": str(folder / "data"),
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
    }
