"""What a service says once of calls that get something else than they may expect."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import EngineInfo, EngineSpec
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry.vllm_registry import import_model

TALK = [{"role": "user", "content": "Hi"}]


class Chatty(EchoEngine):
    """Says of itself what a chat model does."""

    def __init__(self, spec: EngineSpec, marks: tuple[str, ...] | None = ("<|turn|>",)) -> None:
        super().__init__(spec)
        self._marks = marks

    @property
    def info(self) -> EngineInfo:
        from dataclasses import replace

        return replace(super().info, chat_marks=self._marks)


@pytest.fixture
def open_service(tmp_path: Path) -> Any:
    for name in "ab":
        import_model(f"test/{name}", write_echo_model(tmp_path / name), root=tmp_path / "root")
    models = {name: {"model_id": f"test/{name}", "role": "generate"} for name in "ab"}

    def make(engine: Any = Chatty, **config: Any) -> VLLMService:
        return VLLMService(
            {"models": models, "model_root": tmp_path / "root", **config}, engine_factory=engine
        )

    return make


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_text_for_a_chat_model_is_noted_once_for_each_model(
    open_service: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with open_service() as service:
        service.generate(TALK, model="a")
        service.generate([{"messages": TALK}, {"prompt": "to go on"}], model="a")
        service.generate("<|turn|>user Hi <|turn|>assistant", model="a")
        assert said(caplog) == []
        for model in "aab":
            service.generate(["Hello", "again"], model=model)
        assert list(service.stream("once more", model="a"))
    first, second = said(caplog)
    assert first.startswith(
        "'test/a' is a chat model, and continues a prompt that is a text by itself, without its "
        "chat template. For an answer pass a conversation, [{'role': 'user', 'content': ...}]"
    )
    assert second.startswith("'test/b' is a chat model")


@pytest.mark.parametrize("engine", [partial(Chatty, marks=None), EchoEngine])
def test_nothing_is_said_of_models_that_take_texts(
    engine: Any, open_service: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with open_service(engine) as service:
        service.generate("Hello", model="a")
    assert said(caplog) == []


def test_a_limit_that_no_answer_can_reach_is_noted_once(
    open_service: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with open_service(sampling={"max_tokens": 511}) as service:
        service.generate(TALK, model="a")
        assert said(caplog) == []
        for limit in (600, 512, 700):
            service.generate(TALK, model="a", max_tokens=limit)
        service.generate([{"messages": TALK, "options": {"max_tokens": None}}], model="b")
    assert said(caplog) == [
        "max_tokens=600 is more than 'test/a' can generate: its context is 512 tokens, those of "
        "the prompt included. An answer that reaches its end has the finish_reason 'length'"
    ]
