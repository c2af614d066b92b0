"""Embedding models of many architectures give sentence-transformers' vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from measured import embedded, refusal
from zoo_models import DENSE, ENCODERS, HIDDEN, variants, write_model, write_modules

from sage.common.components.sage_vllm import UnsupportedModelError, VLLMService
from sage.common.model_registry import import_model

if TYPE_CHECKING:
    from pathlib import Path

RUNS = [
    pytest.param(variant, dense, id=variant)
    for name, species in ENCODERS.items()
    if not species.refused
    for variant, _, dense in variants(name)
]
REFUSED = [name for name, species in ENCODERS.items() if species.refused]


@pytest.mark.parametrize(("variant", "dense"), RUNS)
def test_an_embedding_model_gives_the_vectors_of_sentence_transformers(
    variant: str, dense: str | None, zoo: Path, tmp_path: Path
) -> None:
    row = embedded(zoo / variant, tmp_path)
    assert row.kind == "embedding"
    assert row.least_cosine >= 0.9999
    assert row.dimension == (DENSE if dense else HIDDEN)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_cannot_run_is_refused_when_it_is_loaded(
    name: str, zoo: Path, tmp_path: Path
) -> None:
    error = refusal(zoo / name, tmp_path, generates=False)
    assert ENCODERS[name].refused in str(error)


def test_a_way_of_pooling_that_vllm_lacks_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_model(folder, ENCODERS["BERT"], generates=False)
    write_modules(folder, "max")
    import_model("zoo/max", folder, root=tmp_path / "root")
    service = VLLMService({"embedding_model_id": "zoo/max", "model_root": tmp_path / "root"})
    with pytest.raises(UnsupportedModelError, match="pools by max_tokens"):
        service.setup()
