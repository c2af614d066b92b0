"""A batch job for the tests to kill.

``checkpointed_job.py FOLDER FORMAT SECONDS_PER_RECORD [MOST_BYTES_OF_A_FILE]`` generates with
VLLMServiceGenerator on an engine that echoes each prompt after a random while, so that records
complete in any order. Every 100th prompt is refused, and dead-lettered. With the format ``stems``
prompts have one of ten stems, and are started by stem; the output is JSON Lines.
"""

from __future__ import annotations

import random
import resource
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Generation, OnText, Prompt
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource, ParquetSink
from sage.libs.operators.vllm_service import VLLMServiceGenerator

FOLDER, FORMAT = Path(sys.argv[1]), sys.argv[2]
SECONDS = float(sys.argv[3])
if len(sys.argv) > 4:  # to the job it is a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))


class SlowEcho(EchoEngine):
    """Answers one of the oldest requests after the other, ``SECONDS`` apart."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._waiting: list[tuple[Future[Generation], Prompt, Mapping[str, Any]]] = []
        self._arrived = threading.Condition()
        threading.Thread(target=self._answer_slowly, daemon=True).start()

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        future: Future[Generation] = Future()
        with self._arrived:
            self._waiting.append((future, prompt, options))
            self._arrived.notify()
        return future

    def _answer_slowly(self) -> None:
        while True:
            with self._arrived:
                while not self._waiting:
                    self._arrived.wait()
                picked = random.randrange(min(8, len(self._waiting)))
                future, prompt, options = self._waiting.pop(picked)
            if SECONDS:
                time.sleep(random.uniform(0, 2 * SECONDS))
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(super().submit(prompt, options).result())
            except Exception as error:  # noqa: BLE001 - it is the request's
                future.set_exception(error)


def prompted(record: dict[str, Any]) -> dict[str, Any]:
    words = "word " * (600 if record["id"] % 100 == 99 else 3)  # 600 are more than it takes
    stem = f"stem {record['id'] % 10}: " if FORMAT == "stems" else ""
    return {**record, "prompt": f"{stem}{record['id']} {words}"}


def answer(record: dict[str, Any]) -> dict[str, Any]:
    return {"id": record["id"], "generated": record["generated"]}


def kept(record: dict[str, Any]) -> bool:
    return bool(record["id"] % 7)


def once_or_twice(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [record] * (1 + record["id"] % 2)


env = LocalEnvironment("checkpointed")
config = {"model_id": "test/echo", "model_root": FOLDER / "models"}
env.register_service("vllm_service", VLLMService, config, engine_factory=SlowEcho)
stream = env.from_source(JSONLSource, FOLDER / "in.jsonl").map(prompted)
stream = stream.map(
    VLLMServiceGenerator,
    on_error=partial(JSONLSink, FOLDER / "failed.jsonl"),
    prefix_order="on" if FORMAT == "stems" else "auto",
    prefix_window_bytes=100_000,  # some 45 records
)
stream = stream.map(answer).filter(kept).flatmap(once_or_twice)
if FORMAT == "parquet":
    stream.sink(ParquetSink, FOLDER / "out", rows_per_part=300)
else:
    stream.sink(JSONLSink, FOLDER / "out")
print("ready", flush=True)
env.submit(checkpoint=FOLDER / "checkpoint")
print("overtaken", sum(operator.overtaken for operator in env.metrics().operators))
