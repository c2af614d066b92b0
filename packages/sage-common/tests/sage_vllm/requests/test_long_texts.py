"""Texts that are longer than an embedding model takes, on a real engine."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.errors import PromptTooLongError
from sage.common.components.sage_vllm.service import VLLMService

MODEL = "test/tiny-chat"
LONG = "word " * 600


@pytest.fixture(scope="module")
def embedder(model_root: Path) -> Iterator[VLLMService]:
    config = {
        "embedding_model_id": MODEL,
        "model_root": model_root,
        "embedding_engine": {"kv_cache_memory_bytes": 64 << 20, "dtype": "float32"},
    }
    with VLLMService(config) as service:
        yield service


def test_a_text_that_is_too_long_is_named_with_the_limit_and_the_ways_out(
    embedder: VLLMService,
) -> None:
    with pytest.raises(PromptTooLongError, match=r"^text 2: .* is 512 tokens.*truncate=True") as it:
        embedder.embed(["fine", "fine too", LONG, "fine again"])
    assert it.value.max_model_len == 512
    assert str(pickle.loads(pickle.dumps(it.value))) == str(it.value)
    assert len(traceback.format_exception(it.value)) < 20
    with pytest.raises(PromptTooLongError, match=r"^the maximum context length"):
        embedder.embed(LONG)


def test_other_texts_of_the_call_are_not_lost(embedder: VLLMService) -> None:
    texts = [f"text number {n}" for n in range(64)]
    whole = embedder.embed(texts)
    assert "errors" not in whole
    texts[40] = LONG
    result = embedder.embed(texts, on_error="return")
    (error,) = result["errors"]
    assert (error["index"], error["type"]) == (40, "PromptTooLongError")
    assert "512 tokens" in error["message"]
    assert result["vectors"][40] is None
    for index, vector in enumerate(whole["vectors"]):
        if index != 40:
            assert result["vectors"][index] == pytest.approx(vector, abs=1e-4)
    assert result["dim"] == 64


def test_truncating_embeds_the_beginning_and_says_how_many_were_cut(
    embedder: VLLMService,
) -> None:
    texts = ["short", LONG, "word " * 10_000, "short"]
    result = embedder.embed(texts, truncate=True)
    assert result["truncated"] == 2
    assert result["vectors"][1] == pytest.approx(result["vectors"][2], abs=1e-4)
    assert result["vectors"][0] != pytest.approx(result["vectors"][1], abs=1e-2)
    short = embedder.embed("short", truncate=True)
    assert short["truncated"] == 0
    assert result["tokens_used"]["prompt"] == 2 * 512 + 2 * short["tokens_used"]["prompt"]
    with pytest.raises(ValueError, match="truncate must be True or False, not 1"):
        embedder.embed("short", truncate=1)
    with pytest.raises(ValueError, match="unknown on_error 'skip'"):
        embedder.embed("short", on_error="skip")


def test_tokens_are_counted_by_a_service_that_only_embeds(embedder: VLLMService) -> None:
    short, long = embedder.count_tokens(["short", LONG])
    assert short == embedder.embed("short")["tokens_used"]["prompt"]
    assert long > 512
    with pytest.raises(ValueError, match="only embeds"):
        embedder.count_tokens("short", role="generate")
    with pytest.raises(ValueError, match="unknown role 'embedd'; did you mean 'embed'"):
        embedder.count_tokens("short", role="embedd")


def test_a_prompt_that_leaves_no_room_for_an_answer_is_too_long(service: VLLMService) -> None:
    (added,) = (count - 1 for count in service.count_tokens("\x01"))
    longest = "\x01" * (511 - added)
    assert service.count_tokens(longest) == [511]
    assert service.generate(longest)[0]["tokens_used"]["completion"] == 1
    with pytest.raises(PromptTooLongError, match="has 512, which leaves no room"):
        service.generate(longest + "\x01")
    with pytest.raises(PromptTooLongError, match=r"^prompt 1: "):
        service.generate(["fine", LONG])
