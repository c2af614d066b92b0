"""`sage llm status` of a service with several models: a row for each, loaded or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from command_line import lines
from recorded_server import program

from sage.common.run_folder import read_records

if TYPE_CHECKING:
    from command_line import CommandLine

SERVICE = """
import sys
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.common.core.context import RuntimeContext
models = {name: "test/echo" for name in ("big", "judge", "small", "spare")}
service = VLLMService({"models": models}, engine_factory=EchoEngine)
service.ctx = RuntimeContext(name="writer")
with service:
    print("up", flush=True)
    for line in sys.stdin:
        name, count = line.split()
        service.generate(["one two"] * int(count), model=name)
"""


def test_each_model_of_a_service_has_a_row(sage: CommandLine, environment: dict[str, str]) -> None:
    with program(SERVICE, environment, start="") as (host, _):
        assert host.stdin is not None
        host.stdin.write("judge 3\nsmall 4\n")
        host.stdin.flush()
        give_up = time.monotonic() + 60
        while read_records()[0]["requests_done"] != 7 and time.monotonic() < give_up:
            time.sleep(0.01)  # its record follows within half a second
        _, service, *rows = lines(sage("llm", "status", **environment))
        assert "4 models" in service
        assert "7 done" in service
        cells = [row.split() for row in rows]
        assert [(row[0], row[1], row[2], row[3]) for row in cells] == [
            ("big", "test/echo", "text", "unloaded"),
            ("judge", "test/echo", "text", "ready"),
            ("small", "test/echo", "text", "ready"),
            ("spare", "test/echo", "text", "unloaded"),
        ]
        assert "3 done, 1 load" in rows[1]
        assert "0 done, 0 loads" in rows[3]
