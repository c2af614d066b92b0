"""The page on asyncio is true: its programs run, and its web server serves, ends and cleans up."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from page_samples import DOCS, run, samples_of

from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.model_registry.vllm_registry import get_model_path, import_model

PAGE = DOCS / "asyncio.md"
CLIENTS = 50
ENDLESS = 30_000  # tokens


@pytest.fixture(scope="module")
def root(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("asyncio") / "registry"
    import_model("sage/tiny-chat", get_model_path("test/tiny-chat", root=model_root), root=root)
    return root


def test_the_samples_print_what_the_page_says(root: Path, tmp_path: Path) -> None:
    run(PAGE, tmp_path, {"SAGE_VLLM_MODEL_ROOT": str(root)}, one_program=True)


@pytest.fixture(scope="module")
def endless_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry whose model answers for half a minute, so that no answer ends by chance."""
    folder = tmp_path_factory.mktemp("endless")
    model = write_tiny_model(folder / "model", context=32_768)
    import_model("sage/tiny-chat", model, root=folder / "registry")
    return folder / "registry"


class Server:
    """The page's application in a process and a session of its own."""

    def __init__(self, root: Path, folder: Path) -> None:
        (app,) = (sample for sample in samples_of(PAGE) if sample.name == "app.py")
        (folder / app.name).write_text(app.code)
        port = random.randrange(20_000, 32_000)  # the system gives none of these away by itself
        self.log = folder / "log"
        self.url = f"http://127.0.0.1:{port}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, app.name],
                env={**os.environ, "SAGE_VLLM_MODEL_ROOT": str(root), "PORT": str(port)},
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 300
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=100)
        return httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits)


@pytest.fixture(scope="module")
def server(endless_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(endless_root, tmp_path_factory.mktemp("server"))
    yield server
    server.process.kill()
    server.process.wait()


async def until_idle(client: httpx.AsyncClient) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (health := (await client.get("/health")).json())["in_flight"]:
            await asyncio.sleep(0.01)
    found: dict[str, Any] = health
    return found


def test_many_clients_are_answered_at_once(server: Server) -> None:
    async def main() -> None:
        async with server.client() as client:
            questions = [{"prompt": f"question {n}", "max_tokens": 1 + n} for n in range(CLIENTS)]
            asked = [client.post("/generate", json=question) for question in questions]
            answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [200] * CLIENTS
        tokens = [answer.json()["tokens_used"]["completion"] for answer in answers]
        assert tokens == list(range(1, CLIENTS + 1))

    asyncio.run(main())


def test_a_stream_says_what_the_answer_is(server: Server) -> None:
    async def main() -> None:
        async with server.client() as client:
            question = {"prompt": "Hello", "max_tokens": 20}
            whole = (await client.post("/generate", json=question)).json()
            said = (await client.get("/stream", params=question)).text.split("\n\n")
        *pieces, end, nothing = said
        texts = [json.loads(piece.removeprefix("data: ")) for piece in pieces]
        result = json.loads(end.removeprefix("event: end\ndata: "))
        assert "".join(texts) == whole["text"] == result["text"]
        assert (len(texts) > 1, nothing) == (True, "")

    asyncio.run(main())


def test_what_is_late_or_wrong_has_a_status(server: Server) -> None:
    async def main() -> None:
        async with server.client() as client:
            done = (await until_idle(client))["requests_done"]
            for question, status, says in (
                ({"prompt": "a", "max_tokens": ENDLESS, "timeout": 0.02}, 504, "took too long"),
                ({"prompt": ""}, 422, "the prompt is empty"),
                ({"prompt": "word " * 40_000}, 422, "tokens"),
            ):
                answer = await client.post("/generate", json=question)
                assert (answer.status_code, says in answer.json()["detail"]) == (status, True)
            answer = await client.get("/stream", params={"prompt": "", "max_tokens": 5})
            assert (answer.status_code, "empty" in answer.json()["detail"]) == (422, True)
            assert (await until_idle(client))["requests_done"] == done

    asyncio.run(main())


def test_the_engine_aborts_what_its_client_has_left(server: Server) -> None:
    long = {"prompt": "a", "max_tokens": ENDLESS}

    async def main() -> None:
        async with server.client() as client:
            done = (await until_idle(client))["requests_done"]
            for _ in range(5):
                async with client.stream("GET", "/stream", params=long) as response:
                    await anext(response.aiter_text())
            assert (await until_idle(client))["requests_done"] == done
            for _ in range(5):
                with pytest.raises(httpx.ReadTimeout):
                    await client.post("/generate", json=long, timeout=httpx.Timeout(60, read=0.03))
            assert (await until_idle(client))["requests_done"] == done

    asyncio.run(main())
    assert "Traceback" not in server.log.read_text()


async def under_way(client: httpx.AsyncClient) -> list[asyncio.Task[httpx.Response]]:
    """Ask for answers until four of them are seen under way at once."""
    for number in count():
        # Done in time on a busy machine too; equal ones would be computed once.
        questions = [{"prompt": f"{number} {n} a", "max_tokens": 30} for n in range(4)]
        posts = [client.post("/generate", json=question) for question in questions]
        asked = [asyncio.create_task(post) for post in posts]
        while not any(each.done() for each in asked):
            if (await client.get("/health")).json()["in_flight"] == len(asked):
                return asked
        await asyncio.gather(*asked)  # some were there before they had been looked for
    raise AssertionError


def test_sigterm_ends_it_gracefully(
    server: Server, session_members: Callable[[int], list[str]]
) -> None:
    async def main() -> None:
        async with server.client() as client:
            asked = await under_way(client)
            server.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*asked)
            assert [answer.status_code for answer in answers] == [200] * len(asked)

    asyncio.run(main())
    assert server.process.wait(120) == 0, server.log.read_text()
    assert "Traceback" not in server.log.read_text()
    assert session_members(server.process.pid) == []
