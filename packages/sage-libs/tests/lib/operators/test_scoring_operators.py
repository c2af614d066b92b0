"""Operators that score and classify, over the shipped engine without weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.core.functions import AsyncMapFunction
from sage.common.model_registry.vllm_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators import VLLMClassifyOperator, VLLMScoreOperator

TEXTS = ["prices fell", "the red fox runs", "a fox"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[VLLMService]:
    heads: dict[str, list[str]] = {"text": [], "reranker": ["relevance"], "mood": ["bad", "good"]}
    for name, classes in heads.items():
        model = write_echo_model(tmp_path / name, classes=classes)
        import_model(f"test/{name}", model, root=tmp_path / "registry")
    config = {
        "model_id": "test/text",
        "scoring_model_id": "test/reranker",
        "models": {"mood": "test/mood"},
        "model_root": tmp_path / "registry",
    }
    with VLLMService(config, engine_factory=EchoEngine) as opened:
        yield opened


@pytest.fixture
def score(service: VLLMService, run: Any) -> Callable[..., list[Any]]:
    """A function that runs records through an operator, in an environment of their own."""

    def run_records(records: Sequence[Any], operator: Any, **options: Any) -> list[Any]:
        env = LocalEnvironment("scoring")
        env.register_service("vllm_service", service)
        found: list[Any] = run(env, records, operator, **options)
        return found

    return run_records


def test_a_text_gets_its_score(score: Any) -> None:
    records = [{"query": "red fox", "text": text, "id": n} for n, text in enumerate(TEXTS)]
    out = score(records, VLLMScoreOperator)
    assert [record["score"] for record in out] == pytest.approx([0.018, 0.982, 0.5], abs=1e-3)
    assert [record["id"] for record in out] == [0, 1, 2]


def test_one_query_for_all_and_other_forms_of_records(score: Any) -> None:
    records = ["a fox", [{"id": 7}, "a fox"], ["x", "a fox"]]
    options = {"query": "fox", "activation": False}
    first, second, third = score(records, VLLMScoreOperator, **options)
    assert first == {"text": "a fox", "score": 4.0}
    assert second == {"id": 7, "score": 4.0}
    assert third == ["x", 4.0]
    (named,) = score(
        [{"body": "a fox"}], VLLMScoreOperator, text_key="body", output_key="fits", **options
    )
    assert named == {"body": "a fox", "fits": 4.0}


def test_the_best_of_a_list_go_on_best_first(score: Any) -> None:
    record = {"query": "red fox", "text": TEXTS}
    (scored,) = score([record], VLLMScoreOperator)
    assert scored["score"] == pytest.approx([0.018, 0.982, 0.5], abs=1e-3)
    (ranked,) = score([record], VLLMScoreOperator, top_n=2, output_key="best")
    assert [each["index"] for each in ranked["best"]] == [1, 2]
    assert ranked["best"][0]["text"] == TEXTS[1]
    assert ranked["text"] == TEXTS


def test_a_record_without_a_query_fails_by_itself(score: Any) -> None:
    failed: list[FailedRecord] = []
    records = [{"text": "a fox"}, {"query": "fox", "text": "a fox"}]
    out = score(records, VLLMScoreOperator, on_error=failed.append)
    assert len(out) == 1
    assert "no key 'query'" in str(failed[0].error)
    assert "query= gives one for all" in str(failed[0].error)


def test_a_text_that_is_too_long_fails_or_is_cut(score: Any) -> None:
    long = {"query": "fox", "text": "a fox " + "word " * 600}
    failed: list[FailedRecord] = []
    assert score([long], VLLMScoreOperator, on_error=failed.append) == []
    assert "512" in str(failed[0].error)
    (cut,) = score([long], VLLMScoreOperator, truncate=True)
    assert cut["score"] > 0.9


def test_a_classifier_labels_records(score: Any) -> None:
    records = [{"id": 1, "text": "a good day"}, {"id": 2, "text": "bad news"}]
    good, bad = score(records, VLLMClassifyOperator, model="mood")
    assert (good["label"], bad["label"]) == ("good", "bad")
    details = good["classification"]
    assert set(details) == {"score", "probabilities", "model_id", "tokens_used", "latency"}
    assert details["probabilities"]["good"] == details["score"] > 0.9
    (bare,) = score(["good"], VLLMClassifyOperator, model="mood", details_key=None)
    assert bare == {"text": "good", "label": "good"}


def test_a_text_model_labels_records_and_conversations(score: Any) -> None:
    labels = ["red", "blue"]
    talk = [{"role": "user", "content": "the sea is blue"}]
    records = [{"title": "wine", "body": "red red"}, {"text": talk}]
    (wine,) = score(
        records[:1], VLLMClassifyOperator, labels=labels, text_template="{title}: {body}"
    )
    assert wine["label"] == "red"
    (sea,) = score(records[1:], VLLMClassifyOperator, labels=labels, output_key="colour")
    assert sea["colour"] == "blue"
    assert sea["text"] == talk
    (told,) = score(
        ["wine"], VLLMClassifyOperator, labels=labels, prompt_template="blue blue {text}"
    )
    assert told["label"] == "blue"


@pytest.mark.parametrize(
    ("operator", "options", "says"),
    [
        (VLLMScoreOperator, {"top_n": 0}, "top_n must be"),
        (VLLMClassifyOperator, {"labels": ["one"]}, "labels must be two or more"),
        (VLLMClassifyOperator, {"prompt_template": "{text}"}, "no labels"),
        (VLLMClassifyOperator, {"prompt_template": "{text} {label}"}, "did you mean 'labels'"),
        (VLLMScoreOperator, {"query": ""}, "query 0 must be a non-empty string"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_runs(
    operator: type[AsyncMapFunction], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        operator(**options)


def test_the_operators_can_be_pickled() -> None:
    for operator in (VLLMScoreOperator(query="fox"), VLLMClassifyOperator(labels=["a", "b"])):
        assert pickle.loads(pickle.dumps(operator)).options == operator.options
