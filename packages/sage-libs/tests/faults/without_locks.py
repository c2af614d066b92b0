"""Runs a script in a process whose system refuses every lock, as file systems without them do.

``python without_locks.py ENOLCK SCRIPT ARGUMENT...``; a seccomp filter (see seccomp(2)) answers the
calls flock() and fcntl(F_SETLK) in place of the file system.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys

_CALLS = {"x86_64": (73, 72), "aarch64": (32, 25)}  # flock, fcntl
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def refuse_locks(code: int) -> None:
    """Have all that locks a file fail with an errno, in this process and its children."""
    flock, fcntl_call = _CALLS[platform.machine()]
    program = [
        (_LOAD, 0, 0, 0),  # the number of the call
        (_JUMP_IF_EQUAL, 5, 0, flock),
        (_JUMP_IF_EQUAL, 0, 3, fcntl_call),
        (_LOAD, 0, 0, 24),  # its second argument
        (_JUMP_IF_EQUAL, 2, 0, fcntl.F_SETLK),
        (_JUMP_IF_EQUAL, 1, 0, fcntl.F_SETLKW),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | code),
    ]
    code_bytes = b"".join(struct.pack("HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code_bytes)
    header = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, header, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    refuse_locks(getattr(errno, sys.argv[1]))
    sys.argv = sys.argv[2:]
    with open(sys.argv[0], encoding="utf-8") as script:  # noqa: PTH123
        exec(compile(script.read(), sys.argv[0], "exec"))
