"""What vLLM and transformers read from the process's environment, set only while it is read.

Left there, it would pass to every program that this process starts later: a server of vLLM's own
would say nothing while it starts.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sage.common.components.sage_vllm.host.lifeline import HOST_VARIABLE
from sage.common.components.sage_vllm.host.malloc_tuning import MALLOC_ENVIRONMENT
from sage.common.components.sage_vllm.host.openmp import bounded_spinning

_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # how it places memory is no news
}
# vLLM adds torch's libgomp and tcmalloc for processes that it starts. Every program started later
# would load them too, and an engine in it would find how long OpenMP spins decided already.
_LEFT_BY_VLLM = ("LD_PRELOAD",)
_ERROR = 2  # of the log levels in torch's C++ part


def quiet_environment() -> dict[str, str]:
    """Return the settings by which they say little, but those that the user has made."""
    settings = {**_QUIET, **_folders_of_vllm()}
    return {name: value for name, value in settings.items() if name not in os.environ}


@cache
def _folders_of_vllm() -> dict[str, str]:
    """Return where vLLM keeps its files if it cannot keep them at home; empty if it can.

    Without a home it would make a folder named "~", and log a page for one that is read-only.
    """
    at_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.path.expanduser(at_home))  # noqa: PTH111 - as vLLM does; Path's raises
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder.is_absolute() and os.access(folder, os.W_OK):
        return {}
    ours = tempfile.mkdtemp(prefix="sage-vllm-")  # nobody else can have put files there
    atexit.register(shutil.rmtree, ours, ignore_errors=True)
    return {"VLLM_CACHE_ROOT": f"{ours}/cache", "VLLM_CONFIG_ROOT": f"{ours}/config"}


def import_environment() -> dict[str, str]:
    """Return the settings that vLLM, and torch with it, is imported with."""
    return quiet_environment() | bounded_spinning()


def quiet_warnings() -> None:
    """Silence warnings that vLLM and torch raise about each other at every start.

    And the tracebacks of vLLM's parsers over calls of tools that were cut off: whoever asked for
    the calls is told of that by the answer, or its error.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, in a notebook
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    logging.getLogger("vllm.tool_parsers").setLevel(logging.CRITICAL)


@contextmanager
def quiet_build() -> Iterator[None]:
    """Build an engine in this process without a trace in what the process prints, now or later.

    torch and transformers have read how much to log when they were imported, maybe by the program
    itself, before the settings for it were made. And torch would begin each line of a traceback of
    this process with "[rank0]: " from now on. Both have to be imported already.
    """
    quiet = quiet_environment()
    hook = sys.excepthook
    torch_log, transformers_log = _torch_log_level(), logging.getLogger("transformers")
    before = torch_log.value, transformers_log.level
    if "TORCH_CPP_LOG_LEVEL" in quiet:
        torch_log.value = _ERROR
    if "TRANSFORMERS_VERBOSITY" in quiet:
        transformers_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        torch_log.value, level = before
        transformers_log.setLevel(level)
        if sys.excepthook.__module__ == "torch.distributed.distributed_c10d":
            sys.excepthook = hook


def _torch_log_level() -> ctypes.c_int:
    """Return the variable that says how much torch's C++ part logs; one without effect if none."""
    library = Path(str(sys.modules["torch"].__file__)).with_name("lib") / "libc10.so"
    try:
        return ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "FLAGS_caffe2_log_level")
    except (OSError, ValueError):  # another build
        return ctypes.c_int()


def engine_environment(*, inline: bool, on_cpu: bool) -> dict[str, str]:
    """Return the settings that an engine, and its process where it has one, is built with."""
    settings = import_environment()
    if inline:
        return {**settings, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    settings |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", HOST_VARIABLE: str(os.getpid())}
    return settings | MALLOC_ENVIRONMENT if on_cpu else settings


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set these variables in the process's environment, and restore it afterwards."""
    before = {name: os.environ.get(name) for name in (*settings, *_LEFT_BY_VLLM)}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
