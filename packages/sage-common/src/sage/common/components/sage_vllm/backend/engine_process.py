"""The process of an engine: how vLLM starts it, and what ties it to its host.

On a CPU vLLM starts both processes of an engine anew, and each imports vLLM again, which takes
longer than all the rest of the start. The fork server imports it once: for the first engine and for
all that follow it after a switch, a fault or a reopening. It ends with the host.

On a GPU vLLM forks or spawns an engine's process itself, as its users choose.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import forkserver, spawn
from multiprocessing.context import (
    BaseContext,
    ForkContext,
    ForkProcess,
    ForkServerContext,
    ForkServerProcess,
    SpawnContext,
    SpawnProcess,
)
from multiprocessing.util import register_after_fork
from queue import SimpleQueue
from typing import Any, Protocol

from sage.common.components.sage_vllm.backend.cpu_kernels import register_cpu_kernels
from sage.common.components.sage_vllm.host.lifeline import die_with_parent

_FORK_SERVER = "sage.common.components.sage_vllm.backend.fork_server"
_keeper: threading.Thread | None = None  # used by one thread at a time: build holds a lock
_wanted: SimpleQueue[Future[None]] = SimpleQueue()


class StartsEngines(Protocol):
    """vLLM's module ``v1.engine.utils``, which starts an engine's process in this context."""

    get_mp_context: Callable[[], BaseContext]


@contextmanager
def tied_processes(engine_utils: StartsEngines, *, forked: bool) -> Iterator[None]:
    """Have the process of an engine that vLLM starts die with this one, if ``forked`` also forked.

    Forks of the fork server have the environment of their start, as if they were spawned. None
    runs the host's script again, as Python would have it: a script needs no ``__main__`` guard.
    """
    original, preparation_data = engine_utils.get_mp_context, spawn.get_preparation_data
    if forked:
        _have_fork_server()
    spawn.get_preparation_data = lambda name: _without_main(name, preparation_data(name))
    engine_utils.get_mp_context = lambda: _ForkedContext() if forked else _tied(original())
    try:
        yield
    finally:
        engine_utils.get_mp_context = original
        spawn.get_preparation_data = preparation_data


class _EngineName(str):
    """The name of an engine's process, and of no other that is started meanwhile."""

    __slots__ = ()


def _without_main(name: str, data: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(name, _EngineName):
        return data
    return {key: value for key, value in data.items() if not key.startswith("init_main")}


class _ForkedEngine(ForkServerProcess):
    """A fork that has the environment of its start, as if it were spawned."""

    _environment: dict[str, str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._name = _EngineName(self.name)

    def start(self) -> None:
        # The engine forks its worker in turn.
        self._environment = {**os.environ, "VLLM_WORKER_MULTIPROC_METHOD": "fork"}
        super().start()

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        die_with_parent()
        # Someone else may have started the fork server, with a mask that lets Ctrl-C through, and
        # without what ties forks. vLLM loads plugins once, which does not count for its forks.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        register_after_fork(die_with_parent, lambda tie: tie())
        register_cpu_kernels()  # in this process and its workers
        super().run()


class _ForkedContext(ForkServerContext):
    Process = _ForkedEngine


class _TiedFork(ForkProcess):
    def run(self) -> None:
        die_with_parent()
        _tie_workers()
        super().run()


class _TiedForkContext(ForkContext):
    Process = _TiedFork


class _TiedSpawn(SpawnProcess):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._name = _TiedName(self.name)

    def run(self) -> None:
        _tie_workers()
        super().run()


class _TiedSpawnContext(SpawnContext):
    Process = _TiedSpawn


class _TiedName(_EngineName):
    """The name of a process, which ties the process that it is read in.

    It is the first thing that a spawned process reads; then it imports vLLM.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _tied_name, (str(self), os.getpid())


def _tied_name(name: str, parent_id: int) -> str:
    die_with_parent(parent_id)
    return name


def _tie_workers() -> None:
    """Tie the workers that this process starts, as it is tied itself."""
    from vllm.v1.executor import multiproc_executor

    original = multiproc_executor.get_mp_context
    multiproc_executor.get_mp_context = lambda: _tied(original())


def _tied(context: BaseContext) -> BaseContext:
    """Return a context that starts processes as this one does, and ties them."""
    contexts = {"fork": _TiedForkContext, "spawn": _TiedSpawnContext}
    method = contexts.get(context.get_start_method() or "")
    return context if method is None else method()


def _have_fork_server() -> None:
    """Start the fork server where it is not running.

    Linux kills it with the thread that started it, which must therefore live as long as this
    process: an engine's driver does not.
    """
    global _keeper
    forkserver.set_forkserver_preload([_FORK_SERVER])
    if _keeper is None or not _keeper.is_alive():  # a fork of this process has only one thread
        _keeper = threading.Thread(target=_keep, name="sage-fork-server", daemon=True)
        _keeper.start()
    started: Future[None] = Future()
    _wanted.put(started)
    started.result()


def _keep() -> None:
    while True:
        started = _wanted.get()
        try:
            forkserver.ensure_running()
        except Exception as error:  # noqa: BLE001 - raised where the engine is built
            started.set_exception(error)
        else:
            started.set_result(None)
