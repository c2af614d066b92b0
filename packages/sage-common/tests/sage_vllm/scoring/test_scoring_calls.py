"""score, rerank, classify and reward: what callers pass and get, over the shipped engine."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints

import pytest

from sage.common.components.sage_vllm import (
    ClassifyResult,
    InvalidInputError,
    InvalidOptionError,
    PromptTooLongError,
    RerankResult,
    ScoreResult,
    VLLMService,
    WrongModelTypeError,
)
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry.vllm_registry import get_model, import_model
from sage.common.service import ServiceClosedError

TEXTS = ["prices fell", "the red fox runs", "a fox"]
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there"}]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    heads: dict[str, list[str]] = {"text": [], "reranker": ["relevance"], "mood": ["bad", "good"]}
    for name, classes in heads.items():
        model = write_echo_model(folder / name, classes=classes)
        import_model(f"test/{name}", model, root=folder / "registry")
    return folder / "registry"


@pytest.fixture
def service(root: Path) -> Iterator[VLLMService]:
    config = {
        "model_id": "test/text",
        "scoring_model_id": "test/reranker",
        "models": {"mood": "test/mood"},
        "model_root": root,
    }
    with VLLMService(config, engine_factory=EchoEngine) as opened:
        yield opened


def required(shape: Any) -> set[str]:
    hints = get_type_hints(shape, include_extras=True)
    return {name for name, kind in hints.items() if get_origin(kind) is not NotRequired}


def test_a_registry_knows_models_that_score_by_their_class(root: Path) -> None:
    kinds = [get_model(f"test/{name}", root=root).tags["type"] for name in ("text", "mood")]
    assert kinds == ["text", "classification"]


def test_scores_are_in_the_order_of_the_texts(service: VLLMService) -> None:
    result = service.score("red fox", TEXTS)
    assert set(result) == required(ScoreResult)
    assert result["scores"] == pytest.approx([0.018, 0.982, 0.5], abs=1e-3)
    assert result["model_id"] == "test/reranker"
    assert result["tokens_used"] == {"prompt": 14, "total": 14}
    own = service.score(["prices", "red fox", "dog"], TEXTS, activation=False)["scores"]
    assert own == pytest.approx([4, 4, -4])
    assert service.score("fox", "a fox")["scores"] == pytest.approx([0.982], abs=1e-3)
    assert service.score("fox", [])["scores"] == []


def test_the_best_come_first_and_equals_in_their_order(service: VLLMService) -> None:
    result = service.rerank("red fox", [*TEXTS, "one more fox"])
    assert set(result) == required(RerankResult)
    assert [each["index"] for each in result["results"]] == [1, 2, 3, 0]
    assert result["results"][0]["text"] == "the red fox runs"
    best = service.rerank("red fox", TEXTS, 1)["results"]
    assert best == result["results"][:1]
    assert (
        service.rerank("red fox", TEXTS, top_n=9)["results"]
        == result["results"][:2] + (result["results"][3:])
    )


def test_classes_have_names_and_probabilities(service: VLLMService) -> None:
    result = service.classify(["a good day", "bad bad news"], model="mood")
    assert set(result) == required(ClassifyResult)
    assert result["labels"] == ["good", "bad"]
    assert result["classes"] == ["bad", "good"]
    for label, score, shares in zip(
        result["labels"], result["scores"], result["probabilities"], strict=True
    ):
        assert sum(shares) == pytest.approx(1)
        assert score == max(shares) == shares[result["classes"].index(label)]


def test_labels_ask_the_text_model(service: VLLMService) -> None:
    result = service.classify(["the sea is blue", "red red wine"], labels=["red", "blue"])
    assert set(result) == required(ClassifyResult) | {"logprobs"}
    assert (result["labels"], result["model_id"]) == (["blue", "red"], "test/text")
    assert result["classes"] == ["red", "blue"]
    assert all(logprob < 0 for logprobs in result["logprobs"] for logprob in logprobs)
    asked = service.classify("wine", labels=["red", "blue"], prompt_template="red red {text}")
    assert asked["labels"] == ["red"]
    talk = [{"role": "user", "content": "blue or not"}]
    assert service.classify([talk], labels=["red", "blue"])["labels"] == ["blue"]
    assert service.classify(talk, labels=["red", "blue"])["labels"] == ["blue"]


def test_rewards_are_numbers_of_conversations(service: VLLMService) -> None:
    result = service.reward([TALK, TALK[:1]])
    assert set(result) == required(ScoreResult)
    assert len({*result["scores"]}) == 2
    (one,) = service.reward(TALK, activation=True)["scores"]
    assert 0 < one < 1


def test_what_failed_is_named_and_the_rest_is_there(service: VLLMService) -> None:
    long = "word " * 600
    with pytest.raises(PromptTooLongError, match="text 1: "):
        service.score("fox", ["a fox", long])
    kept = service.score("fox", ["a fox", long], on_error="return")
    assert kept["scores"][0] == pytest.approx(0.982, abs=1e-3)
    assert kept["scores"][1] is None
    (error,) = kept["errors"]
    assert (error["index"], error["type"]) == (1, "PromptTooLongError")
    ranked = service.rerank("fox", [long, "a fox"], on_error="return")
    assert [each["index"] for each in ranked["results"]] == [1]
    assert ranked["errors"][0]["index"] == 0
    moods = service.classify([long, "good"], model="mood", on_error="return")
    assert (moods["labels"], moods["scores"][0]) == ([None, "good"], None)
    labelled = service.classify([long, "red"], labels=["red", "blue"], on_error="return")
    assert (labelled["labels"], labelled["logprobs"][0]) == ([None, "red"], None)
    cut = service.score("fox", ["a fox", long], truncate=True)
    assert cut["truncated"] == 1
    assert service.classify([long], labels=["red", "blue"], truncate=True)["truncated"] == 1
    assert service.classify(["red"], labels=["red", "blue"], truncate=True)["truncated"] == 0


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda s: s.score("", ["a"]), "query 0 must be a non-empty string"),
        (lambda s: s.score(3, ["a"]), "the query must be a string or a list of strings, not 3"),
        (lambda s: s.score("q", [""]), "text 0 must be a non-empty string"),
        (lambda s: s.score("q", 7), "texts must be a string or a list"),
        (lambda s: s.score(["q"], ["a", "b"]), "1 queries and 2 texts; pass one query, or one"),
        (lambda s: s.score("q", "\ud800"), "text 0"),
        (lambda s: s.classify([["a"]], model="mood"), "text 0 must be a non-empty string"),
        (lambda s: s.reward("hello"), "conversation 0 must be a list of messages, not 'hello'"),
        (lambda s: s.reward([{"messages": TALK, "options": {"n": 1}}]), "conversation 0"),
    ],
)
def test_inputs_that_are_none_are_refused(
    service: VLLMService, ask: Callable[[Any], Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        ask(service)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"truncate": 1}, "truncate must be True or False, not 1"),
        ({"activation": None}, "activation must be True or False"),
        ({"on_error": "skip"}, "unknown on_error 'skip'"),
        ({"chat_template": 3}, "chat_template must be a string"),
        ({"model": "moody"}, "unknown model 'moody'; did you mean 'mood'"),
        ({"model": "text"}, "the model 'text' generates, and cannot score; those that score"),
        ({"model": "mood"}, r"tells 2 classes apart \(bad, good\), and cannot score"),
    ],
)
def test_options_that_cannot_be_are_refused(
    service: VLLMService, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidOptionError, match=says) as caught:
        service.score("fox", TEXTS, **options)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": "red"}, "labels must be a list of strings, not 'red'"),
        ({"labels": ["red"]}, "labels must be two or more that differ"),
        ({"labels": ["red", "red"]}, "labels must be two or more that differ"),
        ({"labels": ["red", " "]}, "a label must be a string with words, not ' '"),
        ({"labels": ["red", "\ud800"]}, "a label"),
        ({"labels": ["a", "b"], "prompt_template": "no place"}, r"a string with \{text\}"),
        ({"labels": ["a", "b"], "prompt_template": "{text}: {lables}"}, "{lables}, which is not"),
        ({"prompt_template": "{text}"}, r"no labels; pass labels="),
        ({"labels": ["a", "b"], "model": "mood"}, "'mood' scores, and cannot generate"),
    ],
)
def test_labels_that_cannot_be_are_refused(
    service: VLLMService, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        service.classify("text", **options)


def test_top_n_is_a_number_of_results(service: VLLMService) -> None:
    for top_n in (0, True, "3"):
        with pytest.raises(InvalidOptionError, match="top_n must be a whole number"):
            service.rerank("fox", TEXTS, top_n)  # type: ignore[arg-type]  # on purpose


def test_a_service_without_such_a_model_says_what_it_has(root: Path) -> None:
    config = {"model_id": "test/text", "model_root": root}
    with VLLMService(config, engine_factory=EchoEngine) as service:
        with pytest.raises(
            WrongModelTypeError, match="'test/text' generates, and cannot score"
        ) as e:
            service.score("fox", TEXTS)
        assert e.value.option == "scoring_model_id"
        assert e.value.nature == "generates"
        assert service.classify("red", labels=["red", "blue"])["labels"] == ["red"]


def test_tasks_by_the_generic_entry_point(service: VLLMService) -> None:
    def run(task: str, inputs: Any, **options: Any) -> Any:
        payload = {"task": task, "inputs": inputs, "options": options}
        return service.process(payload)  # type: ignore[arg-type]  # a plain dict, as from JSON

    assert run("score", "fox", texts=TEXTS)["scores"] == service.score("fox", TEXTS)["scores"]
    assert run("rerank", "fox", texts=TEXTS, top_n=1)["results"][0]["index"] in (1, 2)
    assert run("classify", "good", model="mood")["labels"] == ["good"]
    assert run("classify", ["red"], labels=["red", "blue"])["labels"] == ["red"]
    assert len(run("reward", [TALK])["scores"]) == 1
    with pytest.raises(InvalidInputError, match="task 'score' takes the options texts"):
        run("score", "fox", text=TEXTS)


def test_coroutines_get_the_same(service: VLLMService) -> None:
    async def ask() -> list[Any]:
        return await asyncio.gather(
            service.ascore("fox", TEXTS),
            service.arerank("fox", TEXTS, 1),
            service.aclassify("good", model="mood"),
            service.areward(TALK),
            service.aprocess({"task": "score", "inputs": "fox", "options": {"texts": TEXTS}}),
        )

    scored, ranked, moods, rewards, processed = asyncio.run(ask())
    assert scored["scores"] == processed["scores"] == service.score("fox", TEXTS)["scores"]
    assert len(ranked["results"]) == 1
    assert moods["labels"] == ["good"]
    assert rewards["scores"] == service.reward(TALK)["scores"]


def test_what_the_service_shows_of_a_model_that_scores(service: VLLMService) -> None:
    service.score("fox", TEXTS)
    stats = service.stats()
    assert stats["scoring"]["requests_done"] == 3
    assert stats["models"]["scoring"]["role"] == "scoring"
    assert stats["models"]["mood"]["state"] == "unloaded"
    assert service.health()["engines"]["scoring"]["state"] == "ready"
    assert service.count_tokens("one two", role="score") == [2]
    assert service.checkpoint_identity()["scoring model"] == "test/reranker"


def test_several_models_that_score_have_to_be_named(root: Path) -> None:
    models = {"a": "test/reranker", "b": {"model_id": "test/mood", "role": "score"}}
    with VLLMService({"models": models, "model_root": root}, engine_factory=EchoEngine) as service:
        with pytest.raises(InvalidOptionError, match="several models score") as caught:
            service.score("fox", TEXTS)
        assert caught.value.hint == "pass model=, one of a, b"
        assert service.classify("good", model="b")["labels"] == ["good"]


def test_replicas_score_and_read_labels_too(root: Path) -> None:
    models = {
        "a": {"model_id": "test/reranker", "replicas": 2},
        "text": {"model_id": "test/text", "replicas": 2},
    }
    with VLLMService({"models": models, "model_root": root}, engine_factory=EchoEngine) as service:
        assert service.score("red fox", TEXTS * 9)["scores"][1] == pytest.approx(0.982, abs=1e-3)
        assert service.classify(["red"] * 9, labels=["red", "blue"])["labels"] == ["red"] * 9


def test_another_model_takes_the_place_of_one_that_scores(service: VLLMService) -> None:
    service.switch_model("test/mood", name="scoring")
    assert service.classify("good", model="scoring")["labels"] == ["good"]
    with pytest.raises(WrongModelTypeError, match="cannot score"):
        service.score("fox", TEXTS)


def test_a_closed_service_refuses(root: Path) -> None:
    service = VLLMService(
        {"scoring_model_id": "test/reranker", "model_root": root}, engine_factory=EchoEngine
    )
    with pytest.raises(ServiceClosedError):
        service.score("fox", TEXTS)
