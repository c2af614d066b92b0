"""OpenAIEmbedding and a server that misbehaves: what is waited for, tried again, and an error."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sage.common.components.endpoint_error import EndpointBusyError, EndpointError
from sage.common.components.sage_embedding import EmbeddingModel, get_embedding_model

if TYPE_CHECKING:
    from embeddings_server import EmbeddingsServer

pytestmark = pytest.mark.timeout(60)


def opened(server: EmbeddingsServer, **options: Any) -> EmbeddingModel:
    return get_embedding_model(
        "openai", model="m", base_url=server.base_url, api_key="k", **options
    )


def body(*items: Any) -> str:
    return json.dumps({"object": "list", "model": "m", "data": items})


def item(index: Any, embedding: Any = (1.0, 2.0)) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": embedding}


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_waited_for(server: EmbeddingsServer, status: int) -> None:
    server.replies = [(status, {"Retry-After": "0.3"}, "{}")] * 2
    began = time.monotonic()
    with opened(server, retries=0) as model:
        assert len(model.embed("hello")) == 16
    assert time.monotonic() - began >= 0.6
    assert len(server.requests) == 3
    server.replies = [(status, {"Retry-After": "900"}, "{}")]
    with opened(server) as model, pytest.raises(EndpointBusyError, match="asks to wait for 900 s"):
        model.embed("hello")


def test_closing_ends_the_waiting(
    server: EmbeddingsServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.replies = [(429, {"Retry-After": "300"}, "{}")]
    model = opened(server)
    errors: list[BaseException] = []

    def embed() -> None:
        try:
            model.embed("hello")
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    while "come again in 300 s" not in caplog.text:  # it says so before it waits
        time.sleep(0.01)
    model.close()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert len(errors) == 1


def test_half_an_answer_is_asked_for_again(server: EmbeddingsServer) -> None:
    server.cut = True
    with opened(server) as model:
        assert len(model.embed("hello")) == 16
        server.replies = [(200, {}, '{"data": [{"ind'), (200, {}, ""), (500, {}, "oh")]
        assert len(model.embed("hello")) == 16
        assert len(server.requests) == 6
        server.replies = [(500, {}, "oh")] * 9
    with opened(server, retries=1) as model, pytest.raises(EndpointError, match="answered 500"):
        model.embed("hello")
    assert len(server.requests) == 8


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('{"error": {"message": "no such model", "code": 404}}', "answered 404: no such model"),
        ("{}", "no embeddings but"),
        ("<html>", "no embeddings but '<html>'"),
        (body(item(0), None), "no embeddings but"),
        (body(item(0), item(1, None)), "no embeddings but"),
        (body(item(0), item("1")), "no embeddings but"),
        (body(item(0), item(0)), r"vectors of the texts \[0, 0\], not of 0 to 1"),
    ],
)
def test_what_are_no_embeddings_is_an_error(
    server: EmbeddingsServer, answer: str, says: str
) -> None:
    server.replies = [(200, {}, answer)]
    with opened(server) as model, pytest.raises(EndpointError, match=says):
        model.embed_batch(["one", "two"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("model", [None, 7, {"model_name": "m"}])
def test_a_model_that_is_no_name_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="model is the model's name at the endpoint, not"):
        get_embedding_model("openai", model=model, api_key="k")
