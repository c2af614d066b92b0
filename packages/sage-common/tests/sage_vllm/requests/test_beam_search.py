"""Beam search on a service finds what vLLM's offline beam search finds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm import InvalidOptionError, InvalidRequestError, VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine
from sage.common.model_registry import get_model_path

MODEL = "test/tiny-chat"
ENGINE = {"dtype": "float32", "max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20}
PROMPTS = ["Hello", "The capital of France is", "one two three four", "a", "Rain falls", "x = 3"]
OPTIONS: list[dict[str, Any]] = [
    {"beam_width": 3, "max_tokens": 12},
    {"beam_width": 4, "max_tokens": 6, "length_penalty": 0.0},
    {"beam_width": 2, "max_tokens": 10, "ignore_eos": True, "length_penalty": 2.0},
    {"beam_width": 1, "max_tokens": 5},
]


@pytest.fixture(scope="module")
def expected(model_root: Path) -> list[Any]:
    """What vLLM's own LLM finds; its end would be that of an engine beside it."""
    from vllm import LLM, envs
    from vllm.sampling_params import BeamSearchParams

    path = str(get_model_path(MODEL, root=model_root))
    prompts: list[Any] = [{"prompt": prompt} for prompt in PROMPTS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        envs.disable_envs_cache()  # in which an engine of another test keeps its settings
        llm = LLM(path, enforce_eager=True, max_model_len=512, **ENGINE)
        found = [llm.beam_search(prompts, BeamSearchParams(**options)) for options in OPTIONS]
        llm.llm_engine.engine_core.shutdown()
    return found


@pytest.fixture(scope="module")
def service(model_root: Path, expected: list[Any]) -> Iterator[VLLMService]:
    config = {"model_id": MODEL, "model_root": model_root, "engine": ENGINE}
    with VLLMService(config) as opened:
        yield opened


def test_it_finds_what_vllm_finds(service: VLLMService, expected: list[Any]) -> None:
    ours = [service.beam_search(PROMPTS, **options) for options in OPTIONS]
    for options, mine, reference in zip(OPTIONS, ours, expected, strict=True):
        for result, other in zip(mine, reference, strict=True):
            cut = result["tokens_used"]["prompt"]
            assert [beam["token_ids"] for beam in result["choices"]] == [
                sequence.tokens[cut:] for sequence in other.sequences
            ]
            for beam, sequence in zip(result["choices"], other.sequences, strict=True):
                assert beam["logprob"] == pytest.approx(sequence.cum_logprob, abs=1e-3)
                assert str(sequence.text).endswith(beam["text"])
            assert len(result["choices"]) == options["beam_width"]
            assert result["text"] == result["choices"][0]["text"]
            scores = [beam["score"] for beam in result["choices"]]
            assert scores == sorted(scores, reverse=True)


def test_conversations_items_and_errors(service: VLLMService) -> None:
    chat = [{"role": "user", "content": "Hello"}]
    results = service.beam_search(
        [chat, {"prompt": [70, 71], "options": {"priority": 1}}, "word " * 600],
        max_tokens=3,
        on_error="return",
    )
    assert [len(result.get("choices", [])) for result in results] == [4, 4, 0]
    assert results[2]["error"]["type"] == "PromptTooLongError"
    assert results[0]["finish_reason"] in ("length", "stop")
    payload = {"task": "beam_search", "inputs": "Hello", "options": {"max_tokens": 2}}
    (result,) = service.process(payload)
    (again,) = asyncio.run(service.abeam_search("Hello", max_tokens=2))
    assert again["token_ids"] == result["token_ids"]
    nearly_full = [7] * 509  # of 512 tokens
    (full,) = service.beam_search(nearly_full, max_tokens=50)
    assert len(full["token_ids"]) == 3


def test_a_search_that_nobody_wants_ends(service: VLLMService) -> None:
    future = service.beam_search_async(PROMPTS, max_tokens=400, ignore_eos=True)
    service.generate("beside it", max_tokens=2)
    assert future.cancel()
    service.generate("behind", max_tokens=2)
    assert service.stats()["in_flight"] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"beam_width": 0}, "beam_width must be a whole number, 1 or more, not 0"),
        ({"length_penalty": "1"}, "length_penalty must be a number"),
        ({"ignore_eos": 1}, "ignore_eos must be True or False"),
        ({"top_p": 0.5}, "beam_search has no option 'top_p'"),
    ],
)
def test_an_option_without_sense_is_refused(
    service: VLLMService, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        service.beam_search("Hello", **options)


def test_more_beams_than_the_engine_has_logprobs_for(service: VLLMService) -> None:
    with pytest.raises(InvalidRequestError, match=r"24.*'max_logprobs': 24"):
        service.beam_search("Hello", beam_width=12)


def test_an_engine_without_tokens_cannot_search(model_root: Path) -> None:
    config = {"model_id": "test/echo", "model_root": model_root}
    with (
        VLLMService(config, engine_factory=EchoEngine) as echo,
        pytest.raises(InvalidRequestError, match="cannot search"),
    ):
        echo.beam_search("Hello")
