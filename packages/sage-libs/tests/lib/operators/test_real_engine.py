"""The operators on a real engine: schemas, deadlines and embeddings through one service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.components.sage_vllm.testing.chat_templates import QWEN3_THINKING, QWEN3_TOKENS
from sage.common.core.functions import MapFunction
from sage.common.model_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.errors import UnfinishedAnswerError
from sage.libs.operators.vllm_service import VLLMEmbeddingOperator, VLLMServiceGenerator

pytestmark = pytest.mark.timeout(600)

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


@pytest.fixture(scope="module")
def service(model_root: Path) -> Iterator[VLLMService]:
    """A service of full precision: what else is in a batch changes no text."""
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "engine": {"max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20, "dtype": "float32"},
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    with VLLMService(config) as opened:
        yield opened


def test_answers_are_kept_for_the_next_run(service: VLLMService, tmp_path: Path) -> None:
    def run() -> list[dict[str, Any]]:
        with LocalEnvironment("cached") as env:
            env.register_service("vllm_service", service)
            records = [{"prompt": f"number {n % 20}"} for n in range(40)]
            stream = env.from_collection(records)
            return stream.map(VLLMServiceGenerator, cache=tmp_path, max_tokens=8).collect()

    first = run()
    while service.stats()["caches"][0]["kept"] < 20:  # written soon after
        time.sleep(0.01)
    steps = service.stats()["steps"]
    second = run()
    assert service.stats()["steps"] == steps
    assert [each["generated"] for each in second] == [each["generated"] for each in first]
    assert all(each["generation"]["cached"] for each in second)


class Steps(MapFunction):
    """Answers a prompt, and then each answer."""

    async def execute(self, record: str) -> list[str]:
        texts = [record]
        for _ in range(3):
            (answer,) = await self.call(
                "vllm_service", texts[-1], method="generate", max_tokens=4, ignore_eos=True
            )
            texts.append(answer["text"])
        return texts[1:]


def test_a_coroutine_asks_several_times_and_shares_the_batch(service: VLLMService) -> None:
    before = service.stats()
    prompts = [f"first of {n}" for n in range(40)]
    with LocalEnvironment("steps") as env:
        env.register_service("vllm_service", service)
        out = env.from_collection(prompts).map(Steps).collect()
    after = service.stats()
    for prompt, texts in zip(prompts, out, strict=True):
        (again,) = service.generate(prompt, max_tokens=4, ignore_eos=True)
        assert again["text"] == texts[0]
        assert len(texts) == 3
    assert after["sequence_steps"] - before["sequence_steps"] > 3 * (
        after["steps"] - before["steps"]
    )  # records at different steps are computed together


def test_a_record_cannot_choose_where_answers_are_kept(service: VLLMService) -> None:
    letters: list[FailedRecord] = []
    with LocalEnvironment("chosen") as env:
        env.register_service("vllm_service", service)
        records = [{"prompt": "a", "how": {"cache": "/tmp/anywhere"}}]
        stream = env.from_collection(records)
        stream.map(VLLMServiceGenerator, options_key="how", on_error=letters.append).collect()
    assert "cache in the record's options" in str(letters[0].error)


def rain(city: Literal["Oslo", "Rome"]) -> str:
    """Say whether it rains in a city."""
    return f"{city}: dry"


def test_tools_run_between_turns_that_think(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_model(
        tmp_path / "model",
        context=2048,
        chat_template=QWEN3_THINKING,
        extra_tokens=QWEN3_TOKENS,
    )
    import_model("test/calls", folder, root=tmp_path / "registry")
    config = {
        "model_id": "test/calls",
        "model_root": tmp_path / "registry",
        "engine": {"max_num_seqs": 32, "kv_cache_memory_bytes": 64 << 20},
        "sampling": {"temperature": 0, "max_tokens": 400},
    }
    letters: list[FailedRecord] = []
    with LocalEnvironment("turns") as env:
        env.register_service("vllm_service", VLLMService, config)
        asks = [{"prompt": f"question {n}", "how": {}} for n in range(24)]
        asks.append({"prompt": "cut off", "how": {"max_tokens": 12}})
        records = (
            env.from_collection(asks)
            .map(
                VLLMServiceGenerator, tools=[rain], run_tools=True, tool_choice="required",
                thinking=2, options_key="how", on_error=letters.append,
            )
            .collect()
        )  # fmt: skip
    (letter,) = letters
    assert isinstance(letter.error, UnfinishedAnswerError)
    assert "before its calls were complete; raise max_tokens" in str(letter.error)
    assert "Traceback" not in capfd.readouterr().err  # of vLLM's parser
    assert [each["prompt"] for each in records] == [f"question {n}" for n in range(24)]
    for record in records:
        asked, called, *told, answered = record["messages"]
        assert (asked["role"], answered["role"]) == ("user", "assistant")
        calls = [call["arguments"]["city"] for call in called["tool_calls"]]
        assert [each["content"] for each in told] == [f"{city}: dry" for city in calls]
        assert record["generated"] == answered["content"]
        assert record["generation"]["tokens_used"]["reasoning"] <= 6  # of two turns
