"""RayConnection: this program's connection to Ray, which all its environments share."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from copy import deepcopy
from typing import Any, ClassVar

from sage.common.core.errors import PackageNotInstalledError, nearest
from sage.kernel.runtime.cluster.errors import FROM_OUTSIDE, NoClusterError
from sage.kernel.runtime.cluster.leftovers import Watcher

_LONGEST_REASON = 300  # letters
_GUESSES = " Some common causes include"  # the same ones of each death, and advice to Ray's owner
_ANSWERS_WITHIN = 10.0  # seconds

_FOR_RAY = {
    # Ray reports its use to its makers, and warns of what comes, unless these say otherwise.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_AT_START = "see 'ray_init' and 'runtime_env' in the configuration"
_AT_JOINING = "start one by `ray start --head`, or say 'local' for one of this program's own"
_QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}


class RayConnection:
    """Made for the first environment of a program, ended by the last one that leaves.

    It has a thread for as long as it lasts: what Ray starts on a machine ends with the thread that
    started it. Where the program has called ``ray.init()`` itself, that is used, and left as it is.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    shared: ClassVar[RayConnection | None] = None
    _process: ClassVar[int | None] = None  # that joined a cluster

    def __init__(self, address: str | None, init: Mapping[str, Any]) -> None:
        self.address = address
        self.init = deepcopy(dict(init))  # Ray changes what it is given
        self.users = 0
        self._over = threading.Event()
        made: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._keep, args=(address, init, made), name="sage-ray-connection", daemon=True
        )
        self._thread.start()
        while not made.done():  # such that a Ctrl-C is heard; see LocalExecutor.wait()
            wait([made], 0.5)
        made.result()

    @classmethod
    def get(cls, address: str | None, init: Mapping[str, Any]) -> RayConnection:
        """Return the connection; make it if there is none.

        Raises NoClusterError, PackageNotInstalledError.
        """
        if cls._process not in (None, os.getpid()):
            reason = "this process was forked from one that had joined a cluster, so Ray would hang"
            hint = "start it by 'spawn', or use no RayEnvironment before"
            raise NoClusterError(address or "auto", reason, hint)
        with cls._lock:
            if cls.shared is None:
                cls.shared = cls(address, init)
            elif address not in (None, cls.shared.address):
                reason = f"an environment of this program is at {cls.shared.address!r} already"
                raise NoClusterError(address, reason, "close that first, or give both one address")
            elif init and init != cls.shared.init:
                reason = "an environment of this program has joined it, and said other things of it"
                hint = "close that first, or give both the same 'ray_init' and 'runtime_env'"
                raise NoClusterError(cls.shared.address or "auto", reason, hint)
            cls._process = os.getpid()
            cls.shared.users += 1
            return cls.shared

    def leave(self) -> None:
        """Use it no more; whoever is the last to leave ends it."""
        with self._lock:
            self.users -= 1
            if not self.users:
                type(self).shared = None
                self._over.set()
                self._thread.join()

    def _keep(self, address: str | None, init: Mapping[str, Any], made: Future[None]) -> None:
        try:
            leave = _join(address, init)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            made.set_exception(error)
            return
        made.set_result(None)
        self._over.wait()
        leave()


def _join(address: str | None, init: Mapping[str, Any]) -> Callable[[], None]:
    """Connect to a cluster, or start one; return what undoes that."""
    ray = _imported()
    _check_runtime_env(ray, init.get("runtime_env") or {})
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", here):
            reason = f"this program belongs to the one at {here!r} already"
            raise NoClusterError(str(address), reason, "leave the address out, or end that first")
        if init:
            reason = f"this program has joined it by ray.init(), where {sorted(init)} belong"
            raise NoClusterError(here, reason, "give them to that, or leave that out")
        return lambda: None
    for name, value in _FOR_RAY.items():
        os.environ.setdefault(name, value)
    arguments = {**_QUIET, **init}
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_that_it_answers(address)
    else:
        address = _address_on_this_machine()
    try:
        if address == "local":
            return _start(ray, arguments)
        ray.init(address=address, **arguments)
    except BaseException as error:
        ray.shutdown()  # or the next environment would be taken into what was begun
        if not isinstance(error, ConnectionError | ValueError | RuntimeError):
            raise
        hint = _AT_START if address == "local" else _AT_JOINING
        raise NoClusterError(address, reason_of(error), hint) from error
    leave: Callable[[], None] = ray.shutdown
    return leave


def _check_runtime_env(ray: Any, given: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that Ray does not know: it would pass over that."""
    known = [each for each in ray.runtime_env.RuntimeEnv.known_fields if each[0] != "_"]
    for name in given:
        if name not in known and "RAY_RUNTIME_ENV_PLUGINS" not in os.environ:
            raise ValueError(f"unknown key {name!r} in runtime_env; {nearest(name, known)}")


def _address_on_this_machine() -> str:
    """Return the address of the cluster that `ray start` made this machine part of, or "local".

    Ray's "auto" would also join what another program has started for itself, and ends with itself.
    """
    from ray._private.utils import read_ray_address  # nothing that is public says it

    address: str = read_ray_address() or "local"
    try:
        _check_that_it_answers(address)
    except NoClusterError:
        return "local"  # that cluster has ended
    return address


def _start(ray: Any, arguments: Mapping[str, Any]) -> Callable[[], None]:
    """Start a cluster of this machine alone; return what ends it."""
    watcher = Watcher()
    os.environ.update(watcher.environment)  # all that Ray starts has it too
    try:
        session = ray.init(address="local", **arguments)
    except BaseException:
        watcher.end(all_ended=False)
        raise
    finally:
        for name in watcher.environment:
            del os.environ[name]
    watcher.tell(session.address_info["session_dir"])

    def end() -> None:
        ray.shutdown()
        watcher.end(all_ended=True)

    return end


def _imported() -> Any:
    """Import Ray such that a program that is interrupted ends with status 130, as any other.

    Python notes that a KeyboardInterrupt was the end, and forgets it where code is made of a text
    after that, as dataclasses are. So Ray's hook for errors that nobody catches, which imports what
    it tells the cluster with, is left out, and what ``ray.shutdown()`` imports is imported now.
    """
    hook = sys.excepthook
    try:
        import ray
    except ImportError as error:
        raise PackageNotInstalledError("ray", "isage-kernel[ray]", str(error)) from None
    finally:
        sys.excepthook = hook
    with suppress(ImportError):  # another version may have it elsewhere
        import ray.dag.compiled_dag_node
    return ray


def _check_that_it_answers(address: str) -> None:
    """Raise NoClusterError if nothing is at ``host:port``: Ray would try for two minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host:
        hint = f"say 'host:port' or 'auto', also in RAY_ADDRESS; {FROM_OUTSIDE}"
        raise NoClusterError(address, "that is no 'host:port'", hint)
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN).close()
    except (OSError, ValueError, OverflowError) as error:
        hint = "see which machine ran `ray start --head`, and that its port, 6379, is reached"
        raise NoClusterError(address, str(error), hint) from None


def reason_of(error: BaseException) -> str:
    """Return what Ray says of a death in one line, less what it says of all of them."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith("\t")]
    reason = " ".join(lines[1:] or lines).partition(_GUESSES)[0] or type(error).__name__
    if len(reason) <= _LONGEST_REASON:
        return reason
    half = _LONGEST_REASON // 2  # what is wrong may be said last
    return f"{reason[:half]} ... {reason[-half:]}"
