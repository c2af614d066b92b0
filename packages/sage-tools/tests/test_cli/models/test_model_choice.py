"""Which model a command takes unasked, and what it says where there can be none."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from command_line import TIMEOUT, refused

from sage.common.model_registry.vllm_registry import list_models

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine


def test_without_torch_no_demo_model_is_trained(sage: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")\n")
    done = sage("llm", "run", "--prompt", "Hello", PYTHONPATH=str(tmp_path))
    refused(done, "sage/demo-chat", "isage-common[vllm]", "isage-common[vllm-cpu]")


def test_quietly_no_word_is_said_of_the_training(
    sage: CommandLine, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    options = ["--prompt", "Hello", "--quiet"]
    process = sage.start("llm", "run", *options, TMPDIR=str(tmp_path / "tmp"))
    while not list((tmp_path / "tmp").glob("sage-demo-model-*")):
        assert process.poll() is None
        time.sleep(0.05)  # nothing tells us that it has begun
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(8)  # by when it would have told its progress
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (130, "")
    assert err == "Error: Interrupted.\nHint: Run the same command again.\n"
    assert list((tmp_path / "tmp").glob("sage-demo-model-*")) == []
    assert list_models(root=root) == []
