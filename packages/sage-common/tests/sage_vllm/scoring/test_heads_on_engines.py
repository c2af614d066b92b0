"""Models with heads on real engines, against transformers in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from head_models import (
    CONTEXT,
    MOODS,
    PAIR_TEMPLATE,
    WORDS,
    numbers_of,
    sentences,
    write_bert,
    write_decoder,
    write_qwen2_reward,
)
from transformers import AutoTokenizer

from sage.common.components.sage_vllm import (
    PromptTooLongError,
    VLLMService,
    WrongModelTypeError,
)
from sage.common.model_registry.vllm_registry import import_model

FLOAT32 = {"dtype": "float32", "kv_cache_memory_bytes": 16 << 20}
QUERY = "ban dar"
ANSWERED = [
    [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    for text, answer in zip(sentences(20, 1, 8), sentences(20, 2, 8), strict=True)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("heads")
    makers: dict[str, Callable[[Path], Path]] = {
        "reranker": lambda folder: write_bert(folder, 1),
        "mood": lambda folder: write_bert(folder, 3),
        "qwen": lambda folder: write_decoder(folder, "Qwen3", head=False),
        "reward": lambda folder: write_decoder(folder, "Llama", head=True),
        "reward2": write_qwen2_reward,
    }
    made = {}
    for name, make in makers.items():
        (base / name).mkdir()
        made[name] = make(base / name)
    return made


@pytest.fixture(scope="module")
def root(folders: dict[str, Path]) -> Path:
    root = next(iter(folders.values())).parent / "registry"
    for name, folder in folders.items():
        import_model(f"test/{name}", folder, root=root)
    return root


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[VLLMService]:
    as_reranker = {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "is_original_qwen3_reranker": True,
    }
    models: dict[str, Any] = {
        name: {"model_id": f"test/{name}", "engine": FLOAT32}
        for name in ("mood", "reward", "reward2")
    }
    models["qwen"] = {
        "model_id": "test/qwen",
        "role": "score",
        "engine": {**FLOAT32, "hf_overrides": as_reranker},
    }
    config = {
        "scoring_model_id": "test/reranker",
        "scoring_engine": FLOAT32,
        "models": models,
        "model_root": root,
    }
    with VLLMService(config) as opened:
        yield opened


def test_scores_are_those_of_transformers(service: VLLMService, folders: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["reranker"])
    queries, texts = sentences(200, 3, 10), sentences(200, 4)
    result = service.score(queries, texts)
    assert (result["model_id"], len(result["scores"])) == ("test/reranker", 200)
    assert result["tokens_used"]["prompt"] == sum(
        len(tokenizer(*pair)["input_ids"]) for pair in zip(queries, texts, strict=True)
    )
    encoded = [tokenizer(*pair, return_tensors="pt") for pair in zip(queries, texts, strict=True)]
    logits = numbers_of(folders["reranker"], "BertForSequenceClassification", encoded)[:, 0]
    assert torch.tensor(result["scores"]).sub(logits.sigmoid()).abs().max() <= 1e-3
    raw = service.score(queries, texts, activation=False)["scores"]
    assert torch.tensor(raw).sub(logits).abs().max() <= 1e-3
    assert logits.std() > 0.1  # else a constant would pass
    one = [service.score(queries[0], text)["scores"][0] for text in texts[:5]]
    assert service.score(queries[0], texts[:5])["scores"] == pytest.approx(one, abs=1e-4)


def test_reranked_texts_come_best_first(service: VLLMService) -> None:
    texts = sentences(50, 5)
    scores = service.score(QUERY, texts)["scores"]
    order = sorted(range(50), key=lambda index: -scores[index])
    ranked = service.rerank(QUERY, texts, 10)["results"]
    assert [each["index"] for each in ranked] == order[:10]
    assert [each["text"] for each in ranked] == [texts[index] for index in order[:10]]
    assert [each["score"] for each in ranked] == pytest.approx(
        [scores[index] for index in order[:10]], abs=1e-5
    )


def test_classes_are_those_of_transformers(service: VLLMService, folders: dict[str, Path]) -> None:
    tokenizer, texts = AutoTokenizer.from_pretrained(folders["mood"]), sentences(200, 6)
    result = service.classify(texts, model="mood")
    encoded = [tokenizer(text, return_tensors="pt") for text in texts]
    shares = numbers_of(folders["mood"], "BertForSequenceClassification", encoded).softmax(-1)
    assert result["classes"] == list(MOODS.values())
    assert torch.tensor(result["probabilities"]).sub(shares).abs().max() <= 1e-3
    best = shares.argmax(-1).tolist()
    assert result["labels"] == [MOODS[index] for index in best]
    assert len({*best}) > 1
    assert result["scores"] == pytest.approx([max(p) for p in result["probabilities"]])


def test_a_text_of_the_greatest_length_returns_and_a_longer_one_is_refused(
    service: VLLMService,
) -> None:
    query = " ".join(WORDS[:3])
    longest = " ".join(WORDS[:50] * 3).split()[: CONTEXT - 6]  # three special tokens and the query
    fitting, longer = " ".join(longest), " ".join([*longest, "ban"])
    result = service.score(query, [fitting])
    assert result["tokens_used"]["prompt"] == CONTEXT
    with pytest.raises(PromptTooLongError, match=r"text 1: .* 128 tokens.*has 129.*truncate=True"):
        service.score(query, ["ban", longer])
    with pytest.raises(PromptTooLongError):  # by its characters already
        service.score(query, "ban " * 20_000)
    cut = service.score(query, [fitting, longer, "ban " * 20_000], truncate=True)
    assert cut["truncated"] == 2
    assert cut["scores"][1] == pytest.approx(cut["scores"][0], abs=1e-4)
    whole = " ".join(WORDS[:80] + WORDS[: CONTEXT - 82])
    classified = service.classify([whole, f"{whole} ban"], model="mood", truncate=True)
    assert classified["tokens_used"]["prompt"] == 2 * CONTEXT
    assert classified["truncated"] == 1
    kept = service.score(query, ["ban", longer], on_error="return")
    assert (kept["scores"][1], kept["errors"][0]["index"]) == (None, 1)
    assert kept["errors"][0]["type"] == "PromptTooLongError"


def test_a_text_models_head_scores_by_its_words_for_yes_and_no(
    service: VLLMService, folders: dict[str, Path]
) -> None:
    tokenizer, texts = AutoTokenizer.from_pretrained(folders["qwen"]), sentences(50, 7)
    result = service.score(QUERY, texts, model="qwen", chat_template=PAIR_TEMPLATE)
    prompts = [f"query : {QUERY} . document : {text} . yes no :" for text in texts]
    model = transformers.Qwen3ForCausalLM.from_pretrained(folders["qwen"], dtype=torch.float32)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    with torch.inference_mode():
        for prompt, score in zip(prompts, result["scores"], strict=True):
            inputs = tokenizer(prompt, return_tensors="pt")["input_ids"]
            last = model(inputs).logits[0, -1]
            assert abs(last[[no, yes]].softmax(-1)[1].item() - score) <= 1e-3
    # Without a template the two texts follow each other, as vLLM has it too.
    joined = service.score([f"{QUERY} "], [texts[0]], model="qwen", activation=False)["scores"]
    inputs = tokenizer(f"{QUERY} {texts[0]}", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        last = model(inputs).logits[0, -1]
    assert joined[0] == pytest.approx((last[yes] - last[no]).item(), abs=1e-3)


def test_a_reward_is_what_the_head_says_of_the_last_answer(
    service: VLLMService, folders: dict[str, Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["reward"])
    encoded = [
        tokenizer(
            tokenizer.apply_chat_template(conversation, tokenize=False),
            return_tensors="pt",
            return_token_type_ids=False,
        )
        for conversation in ANSWERED
    ]
    logits = numbers_of(folders["reward"], "LlamaForSequenceClassification", encoded)[:, 0]
    result = service.reward(ANSWERED, model="reward")
    assert torch.tensor(result["scores"]).sub(logits).abs().max() <= 1e-3
    assert logits.std() > 0.1
    squashed = service.reward(ANSWERED[0], model="reward", activation=True)["scores"][0]
    assert squashed == pytest.approx(1 / (1 + math.exp(-logits[0].item())), abs=1e-3)


def test_a_reward_model_that_speaks_at_each_token_is_believed_at_the_last(
    service: VLLMService, folders: dict[str, Path]
) -> None:
    from safetensors.torch import load_file

    folder = folders["reward2"]
    tokenizer, weights = (
        AutoTokenizer.from_pretrained(folder),
        load_file(folder / "model.safetensors"),
    )
    config = transformers.Qwen2Config.from_pretrained(folder)
    model = transformers.Qwen2Model(config).eval()
    model.load_state_dict(
        {name.removeprefix("model."): w for name, w in weights.items() if name.startswith("model.")}
    )
    expected = []
    with torch.inference_mode():
        for conversation in ANSWERED:
            text = tokenizer.apply_chat_template(conversation, tokenize=False)
            hidden = model(tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state
            inner = torch.nn.functional.linear(
                hidden[0, -1], weights["score.0.weight"], weights["score.0.bias"]
            ).relu()
            last = torch.nn.functional.linear(
                inner, weights["score.2.weight"], weights["score.2.bias"]
            )
            expected.append(last.item())
    scores = service.reward(ANSWERED, model="reward2")["scores"]
    assert scores == pytest.approx(expected, abs=1e-3)


def test_many_callers_at_once_get_their_own(service: VLLMService) -> None:
    texts = sentences(64, 8)
    together = service.classify(texts, model="mood")["probabilities"]
    with ThreadPoolExecutor(16) as threads:
        alone = list(threads.map(lambda text: service.classify(text, model="mood"), texts))
        scored = list(threads.map(lambda text: service.score(QUERY, text), texts))
    for one, expected in zip(alone, together, strict=True):
        assert one["probabilities"][0] == pytest.approx(expected, abs=1e-4)
    expected_scores = service.score(QUERY, texts)["scores"]
    assert [one["scores"][0] for one in scored] == pytest.approx(expected_scores, abs=1e-4)


def test_a_head_for_classes_gives_no_score(service: VLLMService) -> None:
    says = r"'test/mood' tells 3 classes apart \(negative, neutral, positive\), and cannot score"
    with pytest.raises(WrongModelTypeError, match=says):
        service.score(QUERY, "ban", model="mood")
    with pytest.raises(WrongModelTypeError, match="cannot reward"):
        service.reward(ANSWERED[0], model="mood")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"scoring_model_id": "test/qwen"},
            r"is a text model \(Qwen3ForCausalLM\), and cannot score",
        ),
        ({"model_id": "test/mood"}, r"classifies \(BertForSequ.*\), and cannot generate.*'score'"),
        ({"embedding_model_id": "test/mood"}, "classifies .* and cannot embed"),
    ],
)
def test_a_model_without_the_head_of_its_role_says_what_it_is(
    root: Path, config: dict[str, Any], says: str
) -> None:
    service = VLLMService({**config, "model_root": root})
    with pytest.raises(WrongModelTypeError, match=says) as caught:
        service.setup()
    service.cleanup()
    assert caught.value.name == next(iter(config))
