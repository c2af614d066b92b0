"""A batch job that is killed in the middle of its tools' turns answers each record once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.testing.echo_engine import write_echo_model
from sage.common.model_registry.vllm_registry import import_model

pytestmark = pytest.mark.timeout(600)

JOB = Path(__file__).with_name("tool_turns_job.py")
CITIES = [f"c{number}" for number in range(300)]
KILLS = 6


def start(folder: Path, *calls: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(JOB), str(folder), *map(str, calls)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def calls_of(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def test_each_record_is_answered_once(tmp_path: Path) -> None:
    import_model("test/echo", write_echo_model(tmp_path / "echo"), root=tmp_path / "models")
    lines = (json.dumps({"prompt": city}) for city in CITIES)
    (tmp_path / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "calls").touch()
    for _ in range(KILLS):
        before, calls_to_come = len(calls_of(tmp_path)), random.randrange(10, 60)
        with start(tmp_path, calls_to_come) as process:
            while len(calls_of(tmp_path)) < before + calls_to_come:
                assert process.poll() is None
                time.sleep(0.005)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    with start(tmp_path) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [each["prompt"] for each in written] == CITIES
    for each in written:
        said = f"{each['prompt']}: dry"
        assert each["generated"] == f"{said} and {said}"
        roles = [message["role"] for message in each["messages"]]
        assert roles == ["user", *["assistant", "tool"] * 2, "assistant"]
    calls = Counter(calls_of(tmp_path))
    assert set(calls) == set(CITIES)
    assert min(calls.values()) == 2
    again = sum(count - 2 for count in calls.values())
    assert again > 0  # kills fell into turns, which then began anew
