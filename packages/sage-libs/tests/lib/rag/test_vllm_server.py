"""OpenAIGenerator against vLLM's own server, on the tiny model."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.endpoint_error import EndpointError
from sage.common.model_registry.vllm_registry import get_model_path
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.errors import UnfinishedAnswerError
from sage.libs.rag.generator import OpenAIGenerator

pytestmark = pytest.mark.timeout(600)

START_SECONDS = 480
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["glad", "sad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server in processes of their own, which end with it."""
    port = random.randrange(20_000, 32_000)  # the system gives none of these away by itself
    model = get_model_path("test/tiny-chat", root=model_root)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += f"--host 127.0.0.1 --port {port} --served-model-name tiny --enforce-eager".split()
    command += f"--max-num-seqs 16 --kv-cache-memory-bytes {64 << 20} --model".split()
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, str(model)], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until_healthy(health: str, server: subprocess.Popen[Any], log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and server.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except OSError:
            time.sleep(0.2)  # a server that starts tells nobody when it is up
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-4000:]}")


def run(url: str, records: list[Any], model: str = "tiny", **arguments: Any) -> list[Any]:
    out: list[Any] = []
    env = LocalEnvironment("openai")
    stream = env.from_collection(records)
    stream.map(OpenAIGenerator, model, url, api_key="any", **arguments).sink(out.append)
    env.submit()
    return out


def test_each_record_gets_the_answer_to_its_own_prompt(url: str) -> None:
    records = [{"id": n, "text": f"word {n}", "how": {"max_tokens": 1 + n % 7}} for n in range(64)]
    out = run(
        url, records,
        prompt_template="Continue: {text}", system_prompt="Be brief.", options_key="how",
        temperature=0,
    )  # fmt: skip
    assert [record["id"] for record in out] == list(range(64))
    for record in out:
        details = record["generation"]
        assert record["generated"]
        assert (details["finish_reason"], details["model_id"]) == ("length", "tiny")
        assert details["tokens_used"]["completion"] == record["how"]["max_tokens"]


def test_options_that_only_vllm_knows_go_into_the_extra_body(url: str) -> None:
    (record,) = run(url, ["hello"], max_tokens=8, temperature=0, extra_body={"min_tokens": 8})
    assert record["generation"]["tokens_used"]["completion"] == 8


def test_a_schema_fills_the_record_and_half_an_object_is_an_error(url: str) -> None:
    letters: list[FailedRecord] = []
    records = [{"prompt": "hello", "how": {"max_tokens": tokens}} for tokens in (100, 3)]
    out = run(
        url, records, json_schema=SCHEMA, options_key="how", temperature=0, on_error=letters.append
    )
    (record,) = out
    assert record["mood"] in ("glad", "sad")
    assert isinstance(record["sure"], bool)
    assert [type(letter.error) for letter in letters] == [UnfinishedAnswerError]


def test_what_the_server_refuses_fails_alone_with_its_words(url: str) -> None:
    letters: list[FailedRecord] = []
    out = run(url, ["hello", "word " * 2000], max_tokens=4, on_error=letters.append)
    assert [record["prompt"] for record in out] == ["hello"]
    (letter,) = letters
    assert isinstance(letter.error, EndpointError)
    assert letter.error.status == 400
    assert "context length" in str(letter.error)
    with pytest.raises(EndpointError, match=r"answered 404: .*`other` does not exist"):
        run(url, ["hello"], model="other")
