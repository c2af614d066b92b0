"""Token ids as prompts, log-probabilities of prompts, and vLLM's lesser-known options."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from sage.common.components.sage_vllm import (
    InvalidInputError,
    InvalidOptionError,
    InvalidRequestError,
    PromptTooLongError,
    VLLMService,
)
from sage.common.model_registry import get_model_path

MODEL = "test/tiny-chat"
TEXT = "The quick brown fox jumps over the lazy dog"
CHAT = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def service(model_root: Path) -> Iterator[VLLMService]:
    """A service in float32, whose figures are compared with those of others."""
    config = {
        "model_id": MODEL,
        "model_root": model_root,
        "engine": {
            "dtype": "float32",
            "max_num_seqs": 16,
            "kv_cache_memory_bytes": 64 << 20,
        },
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    with VLLMService(config) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer(model_root: Path) -> Tokenizer:
    return Tokenizer.from_file(str(get_model_path(MODEL, root=model_root) / "tokenizer.json"))


@pytest.fixture(scope="module")
def logprobs_of(model_root: Path) -> Any:
    """A function that returns transformers' log-probabilities after each token of a prompt."""
    model = AutoModelForCausalLM.from_pretrained(
        get_model_path(MODEL, root=model_root), dtype=torch.float32
    )

    def found(token_ids: list[int]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            logits = model(torch.tensor([token_ids])).logits[0]
        return np.asarray(torch.log_softmax(logits, dim=-1))

    return found


# -- token ids ------------------------------------------------------------------------------------


def test_token_ids_are_prompts_in_every_shape(service: VLLMService, tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode(TEXT).ids
    (by_text,) = service.generate(TEXT)
    shapes = [token_ids, tuple(token_ids), [token_ids], {"prompt": token_ids}]
    shapes.append({"prompt_token_ids": token_ids, "options": {"max_tokens": 8}})
    for shape in shapes:
        (result,) = service.generate(shape)
        assert result["text"] == by_text["text"]
        assert result["tokens_used"]["prompt"] == len(token_ids)
    mixed = service.generate([token_ids, TEXT, CHAT, {"prompt_token_ids": token_ids[:3]}])
    assert [each["tokens_used"]["prompt"] for each in mixed[:2]] == [len(token_ids)] * 2
    assert service.count_tokens([token_ids, token_ids[:3]]) == [len(token_ids), 3]
    with service.stream(token_ids) as stream:
        assert "".join(stream) == by_text["text"]


@pytest.mark.parametrize(
    ("prompt", "error", "says"),
    [
        ([5, 512], InvalidRequestError, "token 1 of the prompt is 512, .*the tokens 0 to 511"),
        ([-1, 5], InvalidRequestError, "token 0 of the prompt is -1"),
        ([5, "a"], InvalidInputError, "token 1 of the prompt must be a whole number, not 'a'"),
        ([5, True], InvalidInputError, "token 1 of the prompt must be a whole number, not True"),
        ({"prompt_token_ids": []}, InvalidInputError, "at least one token id"),
        ({"prompt_token_ids": "abc"}, InvalidInputError, "at least one token id.*'abc'"),
        ({"prompt_token_ids": np.arange(3)}, InvalidInputError, "at least one.*tolist"),
        ([7] * 512, PromptTooLongError, "512"),
    ],
)
def test_what_are_no_tokens_of_the_model_is_refused(
    service: VLLMService, prompt: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        service.generate(prompt)
    bad, good = service.generate([{"prompt_token_ids": [5, 10**9]}, [5]], on_error="return")
    assert bad["error"]["type"] == "InvalidRequestError"
    assert good["text"]
    assert service.stats()["restarts"] == 0


# -- log-probabilities ----------------------------------------------------------------------------


def test_the_logprobs_of_a_prompt_are_those_of_transformers(
    service: VLLMService, tokenizer: Tokenizer, logprobs_of: Any
) -> None:
    token_ids = tokenizer.encode(TEXT).ids
    expected = logprobs_of(token_ids)
    for options in ({}, {"deadline": 60}):
        (result,) = service.generate(TEXT, prompt_logprobs=2, **options)
        first, *others = result["prompt_logprobs"]
        assert first is None
        assert [each["token_id"] for each in others if each] == token_ids[1:]
        for place, each in enumerate(others):
            assert each is not None
            row = expected[place]
            assert each["logprob"] == pytest.approx(row[token_ids[place + 1]], abs=1e-3)
            likeliest = sorted(each["top"].values(), reverse=True)[:2]
            assert likeliest == pytest.approx(np.sort(row)[::-1][:2], abs=1e-3)
    with service.stream(TEXT, prompt_logprobs=0) as stream:
        assert "".join(stream) == result["text"]
        assert len(stream.result["prompt_logprobs"]) == len(token_ids)


def test_a_cache_keeps_log_probabilities(service: VLLMService, tmp_path: Path) -> None:
    options = {"prompt_logprobs": 1, "logprob_token_ids": [5, 70], "cache": tmp_path}
    (first,) = service.generate(TEXT, **options)
    until = time.monotonic() + 60
    while "cached" not in (again := service.generate(TEXT, **options)[0]):  # kept by and by
        assert time.monotonic() < until
    for name in ("text", "logprobs", "prompt_logprobs"):
        assert again[name] == first[name]
    fewer = {**options, "prompt_logprobs": 0}
    assert "cached" not in service.generate(TEXT, **fewer)[0]
    beams = [service.beam_search(TEXT, max_tokens=3)[0]["token_ids"] for _ in range(2)]
    assert beams[0] == beams[1]


def test_given_tokens_are_weighed(
    service: VLLMService, tokenizer: Tokenizer, logprobs_of: Any
) -> None:
    token_ids = tokenizer.encode(TEXT).ids
    asked = [5, 70, 300]
    (result,) = service.generate(TEXT, logprob_token_ids=asked, max_tokens=1)
    (place,) = result["logprobs"]
    assert set(place["by_id"]) == {*asked, place["token_id"]}
    for token_id, logprob in place["by_id"].items():
        assert logprob == pytest.approx(logprobs_of(token_ids)[-1][token_id], abs=1e-3)
    assert "by_id" not in service.generate(TEXT, logprobs=1)[0]["logprobs"][0]


def test_likelihoods_are_those_of_transformers(
    service: VLLMService, tokenizer: Tokenizer, logprobs_of: Any
) -> None:
    words = TEXT.split()
    pairs: list[Any] = [
        (" ".join(words[:cut]), " " + " ".join(words[cut:])) for cut in range(1, len(words))
    ]
    (greedy,) = service.generate(TEXT)
    pairs.append((TEXT, greedy["text"]))
    pairs.append((TEXT + "  ", "and"))  # its blanks go over to the continuation
    encoded = [tokenizer.encode(a.rstrip()).ids for a, _ in pairs]
    whole = [tokenizer.encode(a + b).ids for a, b in pairs]
    results = service.loglikelihood(pairs)
    for context, token_ids, result in zip(encoded, whole, results, strict=True):
        cut = len(context)
        expected = logprobs_of(token_ids)[cut - 1 : -1]
        own = expected[np.arange(len(token_ids) - cut), token_ids[cut:]]
        assert result["logprob"] == pytest.approx(own.sum(), abs=1e-2)
        assert [each["token_id"] for each in result["tokens"]] == token_ids[cut:]
        assert result["is_greedy"] == bool((own >= expected.max(axis=1) - 1e-6).all())
        assert result["tokens_used"]["prompt"] == len(token_ids)
    assert results[-2]["is_greedy"]
    as_ids = [(a, b[len(a) :]) for a, b in zip(encoded, whole, strict=True)]
    for by_text, by_ids in zip(results, service.loglikelihood(as_ids), strict=True):
        assert by_ids["logprob"] == pytest.approx(by_text["logprob"], abs=1e-3)


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("ab", "pair 0 must be two, not 'ab'; pass a list of"),
        (("a", ""), "pair 0 has an empty continuation"),
        (("a", [5]), "pair 0 is neither two texts nor tokens"),
        (([5], [512]), "pair 0: token 1 of the prompt is 512"),
        (("a", "word " * 600), "pair 0: .*512"),
        (([], [5, 6]), "pair 0: .*nothing before it"),
    ],
)
def test_a_pair_without_sense_is_refused(service: VLLMService, pair: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        service.loglikelihood([pair])
    with pytest.raises(InvalidOptionError, match="loglikelihood has no option 'temperature'"):
        service.loglikelihood([("a", "b")], temperature=1)


def test_a_pair_that_fails_fails_alone(service: VLLMService) -> None:
    payload = {"task": "loglikelihood", "inputs": [("a", "b"), ([], [5, 6]), ([5], [6])]}
    good, bad, other = service.process({**payload, "options": {"on_error": "return"}})
    assert good["logprob"] < 0
    assert bad["error"]["type"] == "InvalidRequestError"
    assert other["logprob"] < 0


# -- what the text must be, and when it ends ------------------------------------------------------


def test_json_object_and_structural_tag_bind_the_text(service: VLLMService) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    (result,) = service.generate("?", json_object=True, max_tokens=200, stop="}")
    assert result["text"].startswith("{")
    (cut,) = service.generate("?", json_object=True, max_tokens=1)
    assert cut["parsed"] is None
    content = {"type": "regex", "pattern": "[0-9]{3}"}
    tag = {"type": "tag", "begin": "<a>", "content": content, "end": "</a>"}
    structure = {"type": "structural_tag", "format": tag}
    for given in (structure, json.dumps(structure)):
        (result,) = service.generate("?", structural_tag=given, max_tokens=100)
        assert re.fullmatch("<a>[0-9]{3}</a>", result["text"])
    with pytest.raises(ValueError, match=r"json_schema and json_object.*only one"):
        service.generate("?", json_schema=schema, json_object=True)
    (both,) = service.generate("?", json_schema=schema, json_object=False, max_tokens=100)
    assert both["parsed"]["ok"] in (True, False)


def test_a_text_that_repeats_itself_ends(service: VLLMService) -> None:
    options = {"allowed_token_ids": [70], "max_tokens": 50, "ignore_eos": True}
    detection = {"max_pattern_size": 1, "min_count": 4}
    (result,) = service.generate("a", repetition_detection=detection, **options)
    assert result["finish_reason"] == "repetition"
    assert result["tokens_used"]["completion"] < 10
    with pytest.raises(InvalidRequestError, match="min_count"):
        service.generate("a", repetition_detection={"max_pattern_size": 3})
    with pytest.raises(ValueError, match=r"repetition_detection.*'min_count': 4"):
        service.generate("a", repetition_detection=3)


def test_lesser_known_options_do_what_they_say(service: VLLMService) -> None:
    before = service.stats()["prefix_cache_hit_rate"]
    (again,) = service.generate(TEXT * 4, skip_reading_prefix_cache=True)
    (same,) = service.generate(TEXT * 4, skip_reading_prefix_cache=True, watermarking=False)
    assert again["text"] == same["text"]
    assert service.stats()["prefix_cache_hit_rate"] <= before
    for option, needs in (
        ({"thinking_token_budget": 5}, "reasoning-parser"),
        ({"trace_decode_token_ids": [70, 71]}, "enable-trace-replay"),
    ):
        with pytest.raises(InvalidRequestError, match=needs):
            service.generate(TEXT, **option)
    assert service.stats()["restarts"] == 0
