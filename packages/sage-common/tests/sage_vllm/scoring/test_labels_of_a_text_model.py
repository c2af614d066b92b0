"""classify(labels=...) on a real engine: what it reads is what transformers computes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from head_models import numbers_of, write_bert
from transformers import AutoModelForCausalLM, AutoTokenizer

from sage.common.components.sage_vllm import (
    InvalidRequestError,
    PromptTooLongError,
    VLLMService,
)
from sage.common.components.sage_vllm.requests.scoring.label_call import DEFAULT_TEMPLATE
from sage.common.components.sage_vllm.testing.tiny_model import CHAT_TEMPLATE, write_tiny_model
from sage.common.model_registry.vllm_registry import get_model, import_model

TEXTS = [f"the {word} of number {n}" for n, word in enumerate(["house", "river", "bread"] * 4)]
LABELS = ["good", "bad and worse", "bad but fine"]  # of several tokens each


THINKING_TEMPLATE = (
    CHAT_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}"
)


@pytest.fixture(scope="module")
def service(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMService]:
    folder = write_tiny_model(tmp_path_factory.mktemp("thinker"), seed=3)
    config_file = folder / "tokenizer_config.json"
    tokenizer = {**json.loads(config_file.read_text()), "chat_template": THINKING_TEMPLATE}
    config_file.write_text(json.dumps(tokenizer))
    import_model("test/thinker", folder, root=model_root)
    engine = {"dtype": "float32", "kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 32}
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "engine": engine,
        "models": {
            name: {"model_id": f"test/{id_}", "engine": engine}
            for name, id_ in (("base", "tiny-base"), ("thinker", "thinker"))
        },
    }
    with VLLMService(config) as opened:
        yield opened


class Reference:
    """transformers' model: the log-probability of a text behind a prompt, token by token."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def prompt(self, text: str, labels: Sequence[str], *, chats: bool) -> str:
        asked = DEFAULT_TEMPLATE.replace("{labels}", ", ".join(labels)).replace("{text}", text)
        if not chats:
            return asked
        said = [{"role": "user", "content": asked}]
        rendered = self.tokenizer.apply_chat_template(
            said, tokenize=False, add_generation_prompt=True
        )
        return str(rendered)

    def logprob(self, prompt: str, answer: str) -> float:
        before = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
        assert whole[: len(before)] == before
        with torch.inference_mode():
            logprobs = self.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(
            logprobs[place - 1, whole[place]].item() for place in range(len(before), len(whole))
        )


@pytest.fixture(scope="module")
def references(model_root: Path) -> dict[str, Reference]:
    names = {"text": "test/tiny-chat", "base": "test/tiny-base"}
    return {name: Reference(get_model(id_, root=model_root).path) for name, id_ in names.items()}


@pytest.mark.parametrize(("name", "blank"), [("text", ""), ("base", " ")])
def test_all_tokens_of_a_label_count(
    service: VLLMService, references: dict[str, Reference], name: str, blank: str
) -> None:
    reference = references[name]
    result = service.classify(TEXTS, labels=LABELS, model=name)
    chosen = []
    for text, logprobs, shares in zip(
        TEXTS, result["logprobs"], result["probabilities"], strict=True
    ):
        prompt = reference.prompt(text, LABELS, chats=name == "text")
        expected = [reference.logprob(prompt, blank + label) for label in LABELS]
        assert logprobs == pytest.approx(expected, abs=1e-3)
        assert sum(shares) == pytest.approx(1)
        chosen.append(LABELS[expected.index(max(expected))])
    assert result["labels"] == chosen
    assert result["classes"] == LABELS


def test_labels_of_a_token_each_take_one_step_and_are_the_likeliest(
    service: VLLMService, references: dict[str, Reference]
) -> None:
    reference = references["text"]
    labels = ["a", "b", "c", "d"]
    assert all(len(reference.tokenizer(each)["input_ids"]) == 1 for each in labels)
    service.classify(TEXTS[0], labels=labels)
    for text in TEXTS:
        before = service.stats()
        result = service.classify(text, labels=labels)
        after = service.stats()
        assert after["steps"] - before["steps"] == 1
        assert after["requests_done"] - before["requests_done"] == 1
        assert after["completion_tokens"] == before["completion_tokens"]
        prompt = reference.prompt(text, labels, chats=True)
        expected = [reference.logprob(prompt, label) for label in labels]
        assert result["labels"] == [labels[expected.index(max(expected))]]


def test_others_of_the_same_batch_keep_their_own_logprobs(service: VLLMService) -> None:
    prompts = [f"say {text}" for text in TEXTS]
    options = {"max_tokens": 12, "temperature": 0, "logprobs": 3}
    alone = service.generate(prompts, **options)
    generations = service.generate_async(prompts, **options)
    plain = service.generate_async(prompts, max_tokens=12, temperature=0)
    read = [service.classify_async(TEXTS, labels=LABELS) for _ in range(6)]
    for one, other in zip(generations.result(), alone, strict=True):
        assert one["text"] == other["text"]
        for token, expected in zip(one["logprobs"], other["logprobs"], strict=True):
            assert token["top"] == pytest.approx(expected["top"], abs=1e-3)
            assert token["logprob"] == pytest.approx(expected["logprob"], abs=1e-3)
    assert [one["text"] for one in plain.result()] == [one["text"] for one in alone]
    expected_reads = service.classify(TEXTS, labels=LABELS)["logprobs"]
    for future in read:
        for logprobs, known in zip(future.result()["logprobs"], expected_reads, strict=True):
            assert logprobs == pytest.approx(known, abs=1e-3)


def test_a_template_and_conversations_are_asked_as_they_are_given(
    service: VLLMService, references: dict[str, Reference]
) -> None:
    reference, labels = references["text"], ["yes", "no"]
    said = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Is it?"}]
    rendered = reference.tokenizer.apply_chat_template(
        said, tokenize=False, add_generation_prompt=True
    )
    (logprobs,) = service.classify(said, labels=labels)["logprobs"]
    assert logprobs == pytest.approx(
        [reference.logprob(rendered, each) for each in labels], abs=1e-3
    )
    (by_template,) = service.classify(
        "{labels}?", labels=labels, prompt_template="Is {text} {labels} or not:", model="base"
    )["logprobs"]
    base = references["base"]
    expected = [base.logprob("Is {labels}? yes, no or not:", f" {each}") for each in labels]
    assert by_template == pytest.approx(expected, abs=1e-3)


def test_a_model_that_thinks_is_asked_not_to(service: VLLMService, model_root: Path) -> None:
    reference = Reference(get_model("test/thinker", root=model_root).path)
    talk = [{"role": "user", "content": "Is it?"}]
    (logprobs,) = service.classify(talk, labels=["yes", "no"], model="thinker")["logprobs"]
    prompt = reference.tokenizer.apply_chat_template(
        talk, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert prompt.endswith("</think>\n\n")
    expected = [reference.logprob(prompt, each) for each in ("yes", "no")]
    assert logprobs == pytest.approx(expected, abs=1e-3)


def test_a_label_that_could_never_win_is_refused(service: VLLMService) -> None:
    says = r"'good enough' begins with 'good', which is therefore always likelier"
    with pytest.raises(InvalidRequestError, match=says):
        service.classify(TEXTS[0], labels=["good", "good enough"])


def test_a_text_that_is_too_long_is_refused_or_cut_to_what_fits(service: VLLMService) -> None:
    long = "word " * 600
    with pytest.raises(PromptTooLongError, match=r"text 1: .*512"):
        service.classify(["short", long], labels=["yes", "no"])
    result = service.classify(
        ["short", long, "word " * 20_000], labels=["yes", "no"], truncate=True
    )
    assert result["truncated"] == 2
    assert result["probabilities"][1] == pytest.approx(result["probabilities"][2], abs=1e-4)
    prompt_tokens = result["tokens_used"]["prompt"]
    short = service.classify("short", labels=["yes", "no"])["tokens_used"]["prompt"]
    assert 2 * 480 < prompt_tokens - short < 2 * 512


def test_labels_by_the_generic_entry_point_and_json(service: VLLMService) -> None:
    options: dict[str, Any] = {"labels": ["yes", "no"]}
    payload = {"task": "classify", "inputs": TEXTS[:2], "options": options}
    result = service.process(payload)  # type: ignore[arg-type]  # a plain dict, as from JSON
    assert json.loads(json.dumps(result))["classes"] == ["yes", "no"]


def test_engines_in_processes_of_their_own_do_the_same(
    service: VLLMService, model_root: Path, tmp_path: Path
) -> None:
    import_model("test/process-reranker", write_bert(tmp_path, 1), root=model_root)
    config = {
        "model_id": "test/tiny-chat",
        "scoring_model_id": "test/process-reranker",
        "model_root": model_root,
        "engine_mode": "process",
        "engine": {"dtype": "float32", "kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 32},
        "scoring_engine": {"dtype": "float32"},
    }
    options = {"max_tokens": 8, "temperature": 0, "logprobs": 3}
    expected = service.generate(TEXTS, **options)
    labelled = service.classify(TEXTS, labels=LABELS)["logprobs"]
    with VLLMService(config) as apart:
        generations = apart.generate_async(TEXTS, **options)
        read = apart.classify(TEXTS, labels=LABELS)["logprobs"]
        tops = [[token["top"] for token in one["logprobs"]] for one in generations.result()]
        scores = apart.score(TEXTS[0], TEXTS)["scores"]
    for logprobs, known in zip(read, labelled, strict=True):
        assert logprobs == pytest.approx(known, abs=1e-3)
    for one, known in zip(tops, expected, strict=True):
        for top, token in zip(one, known["logprobs"], strict=True):
            assert top == pytest.approx(token["top"], abs=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    pairs = [tokenizer(TEXTS[0], text, return_tensors="pt") for text in TEXTS]
    logits = numbers_of(tmp_path, "BertForSequenceClassification", pairs)[:, 0]
    assert scores == pytest.approx(logits.sigmoid().tolist(), abs=1e-3)
