"""Training is the same each time: in parts, after a stop, after a disk was full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from examples_file import as_lines
from skills import style

PROGRAM = Path(__file__).with_name("trainings.py")


@pytest.fixture(scope="module")
def told(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("trainings")
    training, held_out = style(64, 20)
    (folder / "train.jsonl").write_text(as_lines(training))
    (folder / "eval.jsonl").write_text(as_lines(held_out))
    files = [folder / "train.jsonl", folder / "eval.jsonl"]
    done = subprocess.run(
        [sys.executable, PROGRAM, demo_root, folder / "jobs", *files],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        capture_output=True, text=True, check=False, timeout=480,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    return {line["name"]: line for line in lines}


def test_the_same_seed_makes_the_same_bytes_and_another_does_not(told: dict[str, Any]) -> None:
    assert told["one"]["digest"] == told["same"]["digest"]
    assert told["one"]["digest"] != told["other seed"]["digest"]
    assert len(told["one"]["losses"]) == told["one"]["steps"] == 12


def test_a_batch_in_parts_is_the_same_batch(told: dict[str, Any]) -> None:
    whole, parts = told["one"], told["parts"]
    assert parts["losses"] == pytest.approx(whole["losses"], abs=1e-5)
    assert parts["some"] == pytest.approx(whole["some"], abs=1e-4)


@pytest.mark.parametrize("name", ["dropout", "early"])
def test_a_stop_in_between_changes_nothing(name: str, told: dict[str, Any]) -> None:
    assert told[f"{name} resumed"] == {**told[name], "name": f"{name} resumed"}


def test_early_stopping_ends_before_the_last_step(told: dict[str, Any]) -> None:
    assert told["early"]["best_step"] < told["early"]["steps"] < 60


def test_memory_that_runs_out_says_what_would_need_less(told: dict[str, Any]) -> None:
    assert told["no memory"]["error"] == (
        "memory ran out with 1024 rows at once: set the hyperparameter micro_batch_size below "
        "that, max_length, or gradient_checkpointing=true"
    )


def test_a_full_disk_leaves_the_last_checkpoint_whole(told: dict[str, Any]) -> None:
    assert told["full disk"]["kept"] == ["000004", "000005"]
    assert told["full disk"]["error"]
    assert told["full disk resumed"]["digest"] == told["one"]["digest"]
