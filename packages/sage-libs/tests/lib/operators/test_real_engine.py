"""The operators on a real engine: schemas, deadlines and embeddings through one service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.service import VLLMService
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.errors import UnfinishedAnswerError
from sage.libs.operators.vllm_service import VLLMEmbeddingOperator, VLLMServiceGenerator

pytestmark = pytest.mark.timeout(240)

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["glad", "sad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}
CUT = {"max_tokens": 3}  # too few for an object
HURRIED = {"json_schema": None, "max_tokens": 400, "deadline": 0.01}


def test_one_service_fills_fields_keeps_deadlines_and_embeds(model_root: Path) -> None:
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "engine": {"max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20},
        "embedding_engine": {"max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20},
    }
    how: dict[int, dict[str, Any]] = {1: CUT, 2: HURRIED}
    records = [{"id": n, "text": f"word {n}", "how": how.get(n % 8, {})} for n in range(80)]
    out: list[dict[str, Any]] = []
    letters: list[FailedRecord] = []
    env = LocalEnvironment("real")
    env.register_service("vllm_service", VLLMService, config)
    (
        env.from_collection(records)
        .map(
            VLLMServiceGenerator,
            system_prompt="Be brief.",
            prompt_template="How is {text}?",
            json_schema=SCHEMA,
            options_key="how",
            max_tokens=60,
            temperature=0,
            on_error=letters.append,
        )
        .map(VLLMEmbeddingOperator, "vllm_service")
        .sink(out.append)
    )
    env.submit()
    assert [letter.record["id"] for letter in letters] == [n for n in range(80) if n % 8 == 1]
    assert {type(letter.error) for letter in letters} == {UnfinishedAnswerError}
    assert [record["id"] for record in out] == [n for n in range(80) if n % 8 != 1]
    for record in out:
        assert sum(x * x for x in record["embedding"]) == pytest.approx(1, abs=1e-3)
        if record["id"] % 8 == 2:
            assert record["generation"]["finish_reason"] == "deadline"
            assert record["generation"]["tokens_used"]["completion"] < 400
            assert "generated" in record
        else:
            assert record["mood"] in ("glad", "sad")
            assert isinstance(record["sure"], bool)
            assert "generated" not in record
