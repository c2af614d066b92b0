"""Ties the life of an engine's processes to that of the process which started them.

Without it, an engine whose host is killed goes on holding all its memory. Linux kills a process
with the thread that started it, where it has asked for that (``PR_SET_PDEATHSIG``), stopped or not.
So each process asks at its first instruction, and then looks whether its parent is still there:

- the fork server, and an engine that vLLM spawns or forks, are the host's own children;
- an engine on a CPU is a fork of the fork server, its workers are forks of the engine.

vLLM also has ``die_with_parent`` called in each of its processes, by its plugin (see
``backend/vllm_plugin.py``): processes that vLLM comes to start in another way are tied by that, if
later.
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
_following = 0  # the process in which a thread waits for the end of the one that asked for it
_forking = 0  # the process that is about to fork


def die_with_parent(parent_id: int | None = None) -> None:
    """Have this process killed when its parent dies, or its host, if SAGE started it.

    ``parent_id`` is the parent that it should have: it dies at once where it has another one by
    now. May be called any number of times.
    """
    global _following
    host = os.environ.get(HOST_VARIABLE)
    if host is None or int(host) == os.getpid() or sys.platform != "linux":
        return
    _ask_for_death_with_parent()
    if parent_id is not None and os.getppid() != parent_id:
        _die()
    # That alone would miss a host behind a fork server that is not ours.
    parent = multiprocessing.parent_process()
    if parent is None or _following == os.getpid():
        return
    _following = os.getpid()

    def follow() -> None:
        parent.join()
        _die()

    threading.Thread(target=follow, name="sage-lifeline", daemon=True).start()


def die_with_host() -> None:
    """Do so in a process that the host itself has started."""
    if (host := os.environ.get(HOST_VARIABLE)) is not None:
        die_with_parent(int(host))


def tie_forks() -> None:
    """Have all forks of this process, and all of theirs, killed with the process they are of."""
    os.register_at_fork(before=_note_parent, after_in_child=_die_with_forked_parent)


def _note_parent() -> None:
    global _forking
    _forking = os.getpid()


def _die_with_forked_parent() -> None:
    _ask_for_death_with_parent()
    if os.getppid() != _forking:
        _die()


def _ask_for_death_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
