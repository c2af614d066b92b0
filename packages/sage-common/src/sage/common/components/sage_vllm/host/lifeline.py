"""Ties the life of vLLM's processes to that of the process which started them.

vLLM calls ``die_with_parent`` in each of its processes, as a plugin of the entry-point group
``vllm.general_plugins`` (see this package's pyproject.toml). Without it, an engine whose host is
killed goes on holding all its memory.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading

HOST_VARIABLE = "SAGE_VLLM_ENGINE_HOST"
"""Set to the host's process id while it starts an engine; vLLM elsewhere is left alone."""

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent() -> None:
    """Have this process killed when its parent dies, or its host, if SAGE started it."""
    host = os.environ.get(HOST_VARIABLE)
    if host is None or int(host) == os.getpid() or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # That alone would miss a parent that is dead already, and a host behind a fork server.
    if (parent := multiprocessing.parent_process()) is not None:

        def follow() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=follow, name="sage-lifeline", daemon=True).start()
