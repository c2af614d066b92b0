"""The page on fine-tuning is true: its examples train the demo model, its pipeline uses that."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from page_samples import DOCS, run

from sage.tuning.settings import Settings

pytestmark = pytest.mark.timeout(1800)

PAGE = DOCS / "fine_tuning_a_model.md"


def test_the_samples_print_what_the_page_says(demo_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(demo_root, tmp_path / "registry")
    run(PAGE, tmp_path, {"SAGE_VLLM_MODEL_ROOT": str(root), "SAGE_RUN_ROOT": str(tmp_path / "run")})


def test_every_hyperparameter_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    told = {field.name for field in fields(Settings) if f"`{field.name}`" in text}
    assert {field.name for field in fields(Settings)} - told == {"gradient_checkpointing"}
