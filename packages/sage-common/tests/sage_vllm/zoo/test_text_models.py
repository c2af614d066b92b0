"""Text models of many architectures give transformers' tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from measured import generated, refusal
from zoo_models import PROMPTS, TEXT

from sage.common.components.sage_vllm.service import VLLMService

if TYPE_CHECKING:
    from pathlib import Path

RUNS = [name for name, species in TEXT.items() if not species.refused]
REFUSED = [name for name, species in TEXT.items() if species.refused]


@pytest.mark.parametrize("name", RUNS)
def test_a_text_model_gives_the_tokens_of_transformers(
    name: str, zoo: Path, tmp_path: Path
) -> None:
    row = generated(zoo / name, tmp_path)
    assert row.kind == "text"
    assert row.equal + row.near_ties == len(PROMPTS)
    assert row.near_ties <= 1
    assert 0.9 < row.weights < 1.1
    assert row.kv_cache is None or 0.7 < row.kv_cache < 1.3


def test_experts_are_mixed_beside_a_model_without_any(
    zoo: Path, model_root: Path, tmp_path: Path
) -> None:
    config = {"model_id": "test/tiny-chat", "model_root": model_root, "engine_mode": "inline"}
    with VLLMService(config):  # vLLM makes the process groups for all by the first model
        row = generated(zoo / "Mixtral", tmp_path)
    assert row.equal + row.near_ties == len(PROMPTS)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_cannot_run_is_refused_when_it_is_loaded(
    name: str, zoo: Path, tmp_path: Path
) -> None:
    error = refusal(zoo / name, tmp_path, generates=True)
    assert TEXT[name].refused in str(error)
