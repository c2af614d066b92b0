"""search(rerank=...): what is found, in the order of a model that reads query and text."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry.vllm_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.middleware.components.memory import SearchHit, VDBMemoryCollection
from sage.middleware.services.memory import register_memory_service
from sage.middleware.services.vllm import register_vllm_service

WORDS = ["fox", "whale", "price", "river", "stone", "cloud", "bread"]
TEXTS = [
    f"{a} {b} {c} {n}"
    for n, (a, b, c) in enumerate(
        (a, b, c) for a in WORDS for b in WORDS for c in WORDS if len({a, b, c}) == 3
    )
]
QUERY = "river bread stone cloud"


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    model = write_echo_model(tmp_path / "echo", classes=["relevance"])
    import_model("test/reranker", model, root=tmp_path / "registry")
    return {"scoring_model_id": "test/reranker", "model_root": tmp_path / "registry"}


def places(hits: list[SearchHit]) -> list[tuple[str, float]]:
    return [(hit.text, round(hit.score, 6)) for hit in hits]


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_the_order_is_that_of_scoring_all_candidates(
    notes: VDBMemoryCollection, config: dict[str, Any], mode: Any
) -> None:
    notes.insert_batch(TEXTS, [{"year": 2000 + n % 3} for n in range(len(TEXTS))])
    with VLLMService(config, engine_factory=EchoEngine) as service:
        found = notes.search(QUERY, 50, mode=mode)
        scores = service.score(QUERY, [hit.text for hit in found])["scores"]
        brute = sorted(range(len(found)), key=lambda n: -scores[n])  # which keeps equals in order
        expected = [(found[n].text, round(scores[n], 6)) for n in brute]
        assert places(notes.search(QUERY, 50, mode=mode, rerank=service)) == expected
        assert places(notes.search(QUERY, 7, mode=mode, rerank=service)) == expected[:7]
        some = notes.search(QUERY, 3, mode=mode, rerank=service, candidates=10)
        ten = notes.search(QUERY, 10, mode=mode)
        assert {hit.text for hit in some} <= {hit.text for hit in ten}
        assert found != notes.search(QUERY, 50, mode=mode, rerank=service)
        late = {"year": 2002}
        of_a_year = notes.search(QUERY, 5, mode=mode, where=late, rerank=service)
        assert all(hit.metadata == late for hit in of_a_year)


def test_all_of_a_small_collection_is_the_brute_force_order(
    notes: VDBMemoryCollection, config: dict[str, Any]
) -> None:
    notes.insert_batch(TEXTS)
    with VLLMService(config, engine_factory=EchoEngine) as service:
        scores = service.score(QUERY, TEXTS)["scores"]
        best = notes.search(QUERY, 20, rerank=service, candidates=len(TEXTS))
    assert [hit.score for hit in best] == pytest.approx(sorted(scores, reverse=True)[:20])


def test_a_function_scores_too(notes: VDBMemoryCollection) -> None:
    notes.insert_batch(["a", "abc", "ab"])
    by_length = notes.search("x", 2, rerank=lambda _query, texts: [len(text) for text in texts])
    assert places(by_length) == [("abc", 3), ("ab", 2)]
    with_scores = partial(lambda _query, texts, factor: {"scores": [factor] * len(texts)}, factor=2)
    assert {hit.score for hit in notes.search("x", 3, rerank=with_scores)} == {2}


def test_nothing_found_asks_nobody(notes: VDBMemoryCollection) -> None:
    def never(_query: str, _texts: list[str]) -> list[float]:
        raise AssertionError("asked")

    notes.insert("a", {"year": 1})
    assert notes.search("x", 2, where={"year": 2}, rerank=never) == []


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"rerank": 7}, TypeError, "takes a query and a list of texts; 7 does neither"),
        ({"rerank": len, "candidates": 3}, ValueError, "candidates=3 are fewer than the k=5"),
        ({"rerank": len, "candidates": True}, ValueError, "candidates must be an integer"),
        ({"rerank": lambda _q, _t: [1]}, ValueError, "gave 1 scores for 2 texts"),
        ({"rerank": lambda _q, t: [None] * len(t)}, ValueError, "gave no numbers"),
        ({"rerank": lambda _q, t: [float("nan")] * len(t)}, ValueError, "no number .NaN."),
        ({"rerank": lambda _q, _t: {"score": 1}}, ValueError, "gave no numbers"),
    ],
)
def test_what_cannot_be_is_refused(
    notes: VDBMemoryCollection, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    notes.insert_batch(["a", "b"])
    with pytest.raises(error, match=says):
        notes.search("x", **arguments)


def test_a_vector_has_no_words_to_read(notes: VDBMemoryCollection) -> None:
    with pytest.raises(ValueError, match="a reranker reads the query: pass a text"):
        notes.search([1.0] * 64, rerank=lambda _query, texts: [0.0] * len(texts))


def test_a_memory_service_reranks_by_another_service(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    with (
        VLLMService(config, engine_factory=EchoEngine) as service,
        LocalEnvironment("rerank") as env,
    ):
        register_vllm_service(env, service=service)
        memory = {"folder": tmp_path / "memory", "embedding": {"method": "hash", "dim": 64}}
        register_memory_service(env, config=memory)
        env.call_service("memory", TEXTS, method="insert_batch")
        hits = env.call_service("memory", QUERY, method="search", k=3, rerank="vllm_service")
        scores = service.score(QUERY, [hit.text for hit in hits])["scores"]
    assert [hit.score for hit in hits] == pytest.approx(scores)
    assert scores == sorted(scores, reverse=True)
