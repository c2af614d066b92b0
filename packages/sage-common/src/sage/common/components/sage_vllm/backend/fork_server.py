"""What the fork server of engine_process.py imports, and nobody else: all that engines need."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sage.common.components.sage_vllm.host.engine_environment import quiet_warnings
from sage.common.components.sage_vllm.host.lifeline import die_with_host, tie_forks
from sage.common.components.sage_vllm.host.quick_imports import quick_imports
from sage.common.components.sage_vllm.host.usable_cores import usable_cores

# Before anything that takes time: the host may be killed while this process imports vLLM.
die_with_host()
tie_forks()

with quick_imports():
    import torch

    quiet_warnings()
    import vllm.v1.engine.core
    import vllm.v1.executor.multiproc_executor
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from vllm.utils import cpu_resource_utils
    from vllm.utils.ompmultiprocessing import OMPProcessManager
    from vllm.utils.system_utils import set_process_title


@contextmanager
def _bind_worker(manager: OMPProcessManager, *, local_rank: int, **_others: int) -> Iterator[None]:
    """Start a worker on the cores that vLLM has chosen for it.

    In place of ``OMPProcessManager.configure_omp_envs``, which sets variables that OpenMP reads
    when it is loaded; in a fork it is loaded already. A fork inherits both of these.

    vLLM looks at the cores that it may run on. A quota may pay for fewer, some of which vLLM
    leaves to its other processes.
    """
    if manager.skip_setup:
        yield
        return
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    chosen = manager.cpu_lists[local_rank]
    if manager.auto_setup:
        for_workers = usable_cores() - manager.reserve_cpu_num
        chosen = chosen[: max(1, for_workers // manager.local_world_size)]
    os.sched_setaffinity(0, chosen)
    torch.set_num_threads(len(chosen))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def _ask_for_cores_once() -> None:
    """Ask ``lscpu`` for the machine's cores here, in place of in each engine and worker.

    vLLM asks by a shell, and a shell takes away the mask that keeps Ctrl-C from engines: the
    terminal's would end ``lscpu``, and the engine with a traceback. What is ignored, as here, stays
    ignored.
    """
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with suppress(subprocess.CalledProcessError):  # then engines ask, and say what is wrong
            cores = cpu_resource_utils._get_cpu_list()  # noqa: SLF001
            cpu_resource_utils._get_cpu_list = cores.copy  # noqa: SLF001
    finally:
        signal.signal(signal.SIGINT, heard)


_ask_for_cores_once()
OMPProcessManager.configure_omp_envs = _bind_worker
# This also finds where a title is kept, which a fork with another environment no longer can.
set_process_title("ForkServer", prefix="SAGE")
