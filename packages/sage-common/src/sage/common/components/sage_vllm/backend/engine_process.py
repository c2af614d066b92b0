"""Engine processes on a CPU, forked from a process that has imported vLLM already.

There vLLM starts both processes of an engine anew, and each imports vLLM again, which takes longer
than all the rest of the start. The fork server imports it once: for the first engine and for all
that follow it after a switch, a fault or a reopening. It ends with the host.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.util import register_after_fork
from typing import Any

from sage.common.components.sage_vllm.backend.cpu_kernels import register_cpu_kernels
from sage.common.components.sage_vllm.host.lifeline import die_with_parent


class _EngineProcess(ForkServerProcess):
    """A fork that has the environment of its start, as if it were spawned."""

    _environment: dict[str, str]

    def start(self) -> None:
        # The engine forks its worker in turn.
        self._environment = {**os.environ, "VLLM_WORKER_MULTIPROC_METHOD": "fork"}
        super().start()

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        # Someone else may have started the fork server, with a mask that lets Ctrl-C through.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        # vLLM loads plugins once, which does not count for the worker that it forks afterwards.
        register_after_fork(die_with_parent, lambda tie: tie())
        register_cpu_kernels()  # in this process and its workers
        super().run()


class _EngineContext(ForkServerContext):
    Process = _EngineProcess


@contextmanager
def forked_processes(engine_utils: Any) -> Iterator[None]:
    """Have vLLM fork the process of an engine, where its module ``v1.engine.utils`` starts one."""
    context = _EngineContext()
    context.set_forkserver_preload(["sage.common.components.sage_vllm.backend.fork_server"])
    original = engine_utils.get_mp_context
    engine_utils.get_mp_context = lambda: context
    try:
        yield
    finally:
        engine_utils.get_mp_context = original
