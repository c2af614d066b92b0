"""`sage llm improve` on the demo model: corrected answers become an adapter that is promoted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from skills import style

from sage.common.model_registry.vllm_registry import get_model, list_models

SAGE = [sys.executable, "-c", "from sage.tools.cli.main import main; main()"]


def test_what_was_corrected_is_learned_and_noted(demo_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(demo_root, tmp_path / "registry")
    training, _ = style(240, 0)
    turns = [example["messages"] for example in training]
    records = [{"prompt": one["content"], "corrected": two["content"]} for one, two in turns]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(record) + "\n" for record in records))
    rate = ["epochs=15", "learning_rate=0.003", "threads=1"]
    settings = [part for each in rate for part in ("--hyperparameter", each)]

    def improve(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SAGE, "llm", "improve", "--from", answers, "-m", "sage/demo-chat", "-o",
             tmp_path / "jobs" / name, "--as", "my/radio", "--promote", *settings, *more],
            env={**os.environ, "SAGE_VLLM_MODEL_ROOT": str(root)}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=480,
        )  # fmt: skip

    done = improve("one")
    assert done.returncode == 0, done.stderr
    assert "240 examples: 240 corrected, 0 rated well" in done.stderr
    (line,) = (tmp_path / "jobs" / "ledger.jsonl").read_text().splitlines()
    noted = json.loads(line)
    assert (noted["id"], noted["decision"], noted["baseline"]) == ("my/radio", "promoted", None)
    assert noted["commit"] == get_model("my/radio", root=root).commit
    assert noted["verification"]["exact_match_vllm"] > 0.8
    assert len(list_models(root=root)) == 2

    again = improve("two", "--hyperparameter", "max_steps=40")
    assert again.returncode == 1, again.stderr
    assert "which chance alone does in" in again.stderr
    noted = json.loads((tmp_path / "jobs" / "ledger.jsonl").read_text().splitlines()[1])
    promoted = get_model("my/radio", root=root).commit
    assert (noted["decision"], noted["baseline"]) == ("kept back", f"my/radio@{promoted}")
    assert noted["verification"]["exact_match_before"] > 0.8  # of the adapter that is in use
    assert f"before, in vLLM, is my/radio@{promoted}" in again.stdout
    assert len(list_models(root=root)) == 2
