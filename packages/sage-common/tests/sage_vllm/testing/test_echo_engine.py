"""The shipped engine without weights keeps the Engine protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine


@pytest.fixture
def service(model_root: Path) -> VLLMService:
    config = {"model_id": "test/echo", "model_root": model_root}
    return VLLMService(config, engine_factory=EchoEngine)


def test_it_answers_with_the_words_of_the_prompt(service: VLLMService) -> None:
    with service:
        whole, cut = service.generate(
            ["one two three", {"prompt": "a b", "options": {"max_tokens": 1}}]
        )
        (chat,) = service.generate([{"role": "user", "content": "hi there"}])
    assert (whole["text"], whole["finish_reason"]) == ("one two three", "stop")
    assert (cut["text"], cut["finish_reason"]) == ("a", "length")
    assert cut["tokens_used"] == {"prompt": 2, "completion": 1, "total": 3}
    assert chat["text"] == "hi there"


def test_it_refuses_what_a_model_would(service: VLLMService) -> None:
    with service, pytest.raises(ValueError, match="600 words"):
        service.generate("word " * 600)


def test_its_vectors_depend_on_the_text_and_have_length_one(service: VLLMService) -> None:
    with service:
        one, other, again = service.embed(["one", "other", "one"])["vectors"]
    assert one == again != other
    assert sum(x * x for x in one) == pytest.approx(1)


def test_it_counts_and_closes(service: VLLMService) -> None:
    with service:
        service.generate(["a b", "c"])
        stats = service.stats()
    assert stats["requests_done"] == 2
    assert stats["prompt_tokens"] == 3
    with pytest.raises(EngineClosedError, match="test/echo"):
        service.generate("late")
