"""`sage llm fine-tune` on a terminal: a line that tells how far it is, and two ways to stop."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from sage.common.components.sage_vllm.fine_tuning import FineTuneJob

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine


@pytest.fixture
def command(demo_root: Path, tmp_path: Path) -> list[str]:
    """A training whose steps last seconds."""
    examples = [{"prompt": f"{n} + {n} =", "completion": f" {2 * n}"} for n in range(64)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in examples))
    settings = {"batch_size": 8192, "micro_batch_size": 64, "threads": 1, "max_steps": 100}
    options = [
        part for name in settings for part in ("--hyperparameter", f"{name}={settings[name]}")
    ]
    return [
        *("llm", "fine-tune", "-m", "sage/demo-chat", "--dataset", str(tmp_path / "train.jsonl")),
        *("-o", str(tmp_path / "job"), "--as", "my/sums", *options),
    ]


def test_a_terminal_shows_how_far_it_is_and_a_second_ctrl_c_ends_it_at_once(
    sage: CommandLine, command: list[str], demo_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(demo_root, tmp_path / "registry")
    terminal = sage.terminal(*command, columns=120, SAGE_VLLM_MODEL_ROOT=str(root))
    terminal.read_until("job: starting")
    terminal.read_until("job: step 1 of ")
    terminal.read_until(" left")
    shown = terminal.text
    assert "━" in shown or "─" in shown
    for part in (r"loss \d", r"held out \d", r"\d tok/s", r"\d [MG]B", r"\d+:\d\d left"):
        assert re.search(part, shown), part
    assert "checkpoint" not in shown  # a line for each is for pipes
    terminal.type("\x03")
    terminal.read_until("Stopping after this step; Ctrl-C again ends it at once.")
    terminal.type("\x03")
    assert terminal.finish() == 130
    last = terminal.text.splitlines()[-1]
    assert f"`sage llm fine-tune resume {tmp_path / 'job'}`" in last
    assert "Traceback" not in terminal.text
    job: Any = FineTuneJob.open(tmp_path / "job")
    assert (job.state, job.checkpoints()) == ("interrupted", [])
    assert job.reason == "it was asked twice to stop, so it did not wait for a checkpoint"
