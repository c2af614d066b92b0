"""A process that is recorded as a server is, for what does not need an engine to be tested."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_PROGRAM = """
import signal, socket, subprocess, sys, time
from sage.common.run_folder import RunRecord

def recorded(port, **facts):
    return RunRecord(
        "server", host="127.0.0.1", port=port, url=f"http://127.0.0.1:{port}/v1", log=None,
        **{"name": "chat", "model_id": "test/chat", "state": "ready", **facts},
    )

def ready(*words):
    print(*words, flush=True)
"""


@contextmanager
def program(
    code: str, environment: Mapping[str, str], *, start: str = _PROGRAM
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run a program in a session of its own until it has said a line; also returns its words."""
    process = subprocess.Popen(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()
        finally:
            process.kill()


@contextmanager
def server(
    environment: Mapping[str, str], port: int = 8000, **facts: Any
) -> Iterator[subprocess.Popen[str]]:
    """A process recorded as a server, which nothing but a signal ends."""
    code = f"record = recorded({port}, **{facts!r}); ready('up'); signal.pause()"
    with program(code, environment) as (process, _):
        yield process


SERVICE = """
import sys
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.common.core.context import RuntimeContext
service = VLLMService({"model_id": "test/echo"}, engine_factory=EchoEngine)
service.ctx = RuntimeContext(name="writer")
with service:
    service.generate(["one two"] * 7)
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def service(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A program with a service named `writer` that has answered seven prompts."""
    with program(SERVICE, environment, start="") as (process, _):
        yield process
