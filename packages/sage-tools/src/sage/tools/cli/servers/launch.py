"""Starting a server: its process, its record, its log."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sage.common.components.sage_vllm.host.lifeline import HOST_VARIABLE
from sage.common.components.sage_vllm.host.socket_folder import SocketFolder, remove_abandoned
from sage.common.model_registry.vllm_registry import ModelInfo
from sage.common.run_folder import (
    ROOT_VARIABLE,
    RunRecord,
    make_run_root,
    run_root,
)
from sage.tools.cli.errors import CommandError
from sage.tools.cli.machine.vllm_build import is_cpu_build
from sage.tools.cli.servers.address import Address
from sage.tools.cli.servers.command import embeds
from sage.tools.cli.servers.process import ServerProcess

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A server on its way: its process, and its record as long as this process holds it."""

    popen: subprocess.Popen[bytes]
    process: ServerProcess
    record: RunRecord

    def forget(self) -> None:
        """Remove its record, and the folder of its sockets: it has ended."""
        self.record.remove()
        remove_abandoned()


def launch(
    model: ModelInfo, address: Address, *, command: Sequence[str], background: bool
) -> Launched:
    """Start the server's process and record it; raises CommandError as ``check_free`` does.

    Of several calls at once for one port, one succeeds. In the foreground the server ends with
    this process, however that ends.
    """
    with _alone():
        address.check_free()
        log = log_path(address.port)
        record = RunRecord(
            "server",
            name=model.model_id.rpartition("/")[2],
            model_id=model.model_id,
            revision=model.revision,
            host=address.host,
            port=address.port,
            url=address.url,
            state="starting",
            embeds=embeds(model),
            log=str(log) if background else None,
        )
    popen = None
    try:
        popen = _spawn(command, record, log if background else None)
        process = ServerProcess(popen.pid)
        record.update(pid=popen.pid, start_ticks=process.started)
    except BaseException:
        if popen is not None:
            ServerProcess(popen.pid).end(0)
        record.remove()
        remove_abandoned()
        raise
    return Launched(popen=popen, process=process, record=record)


def log_path(port: int) -> Path:
    """Where the log of the latest background server on a port is."""
    return run_root() / "logs" / f"server-{port}.log"


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other starts out from looking at the ports until the record is there."""
    try:
        root = make_run_root()
        lock = (root / "starting").open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise CommandError(
            f"The run folder cannot be used: {error}.", f"Set {ROOT_VARIABLE} to another one."
        ) from error
    with lock:
        yield


def _spawn(command: Sequence[str], record: RunRecord, log: Path | None) -> subprocess.Popen[bytes]:
    libc, parent = ctypes.CDLL(None), os.getpid()

    def end_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)

    # vLLM's processes look for the id of the server that they are to end with; see lifeline.py.
    wrapped = ["/bin/sh", "-c", f'export {HOST_VARIABLE}=$$; exec "$@"', "sh", *command]
    lock = os.dup(record.fileno())  # that one is closed in a fork
    sockets = SocketFolder()
    try:
        with _output(log) as output:
            return subprocess.Popen(
                wrapped,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # With these the lives of the record and the folder are the server's.
                pass_fds=(lock, sockets.fileno()),
                start_new_session=True,
                preexec_fn=end_with_parent if log is None else None,
                env={**_environment(), **os.environ, **sockets.environment},
            )
    finally:
        os.close(lock)
        sockets.let_go()


@contextmanager
def _output(log: Path | None) -> Iterator[int]:
    if log is None:
        yield sys.stderr.fileno()
        return
    log.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    from sage.common.components.sage_vllm.host.malloc_tuning import MALLOC_ENVIRONMENT

    return {"VLLM_NO_USAGE_STATS": "1", **(MALLOC_ENVIRONMENT if is_cpu_build() else {})}
