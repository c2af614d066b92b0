"""What is no configuration, prompt or payload: an error of the hierarchy, its value, a way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm import (
    InvalidInputError,
    InvalidOptionError,
    VLLMService,
    VLLMServiceConfig,
)
from sage.common.components.sage_vllm.testing import EchoEngine
from sage.common.core.errors import SageError


@pytest.mark.parametrize(
    ("make", "name", "given", "hint"),
    [
        (lambda: VLLMService("org/name"), "config", "org/name", "'model_id': 'org/name'"),  # type: ignore[arg-type]  # as people write it
        (lambda: VLLMService(None), "config", None, "'model_id'"),  # type: ignore[arg-type]  # as above
        (lambda: _config(engine="auto"), "engine", "auto", "'max_model_len': 2048"),
        (lambda: _config(embedding_engine=[1]), "embedding_engine", [1], "'max_model_len'"),
        (lambda: _config(sampling=0.7), "sampling", 0.7, "{'max_tokens': 64}"),
        (lambda: _config(engine=3, tensor_parallel_size=2), "engine", 3, "engine={"),
    ],
)
def test_a_configuration_that_is_none(
    make: Callable[[], Any], name: str, given: object, hint: str
) -> None:
    with pytest.raises(InvalidOptionError, match=f"{name} must be a mapping, not ") as caught:
        make()
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, SageError)
    assert (caught.value.name, caught.value.given) == (name, given)
    assert hint in str(caught.value.hint)


def _config(**settings: Any) -> VLLMServiceConfig:
    return VLLMServiceConfig.from_dict({"model_id": "org/name", **settings})


@pytest.mark.parametrize(
    ("prompts", "given", "said"),
    [
        (3, 3, "prompts must be texts or conversations, not 3; pass a string"),
        ({"a", "b"}, {"a", "b"}, "conversations, not {"),
        (
            ["Hello", None],
            None,
            "prompt 1 must be a text or a conversation, not None; pass a string",
        ),
        (["Hello", ""], "", "prompt 1 is empty"),
        (["Hello", []], [], "prompt 1 must be a text, or a conversation.* not \\[\\]"),
        ({"prompt": 7}, 7, "no string: 7"),
        ({"prompt": "a", "options": 1}, 1, "must be a mapping, not 1; pass 'options': {"),
        ({"text": "a"}, {"text": "a"}, "'prompt' or 'messages'.*it has \\['text'\\]"),
        ([{"role": "user"}], {"role": "user"}, "without a 'role' that is a string and a 'content'"),
        (
            [{"role": "usr", "content": "Hello"}],
            {"role": "usr", "content": "Hello"},
            "unknown role 'usr'; did you mean 'user'?",
        ),
        (
            [{"role": "User", "content": "a"}],
            {"role": "User", "content": "a"},
            "did you mean 'user'",
        ),
        ("half \ud83d", "half \ud83d", "half a character.*; text.encode"),
    ],
)
def test_prompts_that_are_none(prompts: Any, given: object, said: str, model_root: Path) -> None:
    with _service(model_root) as service:
        with pytest.raises(InvalidInputError, match=said) as caught:
            service.generate(prompts)
        assert service.generate("Hello")[0]["text"]
    assert isinstance(caught.value, ValueError)
    assert caught.value.given == given


@pytest.mark.parametrize(
    ("payload", "given", "hint"),
    [
        ("generate", "generate", None),
        ({"task": "genrate", "inputs": "x"}, "genrate", "did you mean 'generate'?"),
        ({"task": "generate"}, {"task": "generate"}, None),
        ({"task": "generate", "inputs": "x", "options": 3}, 3, None),
    ],
)
def test_payloads_that_are_none(
    payload: Any, given: object, hint: str | None, model_root: Path
) -> None:
    with _service(model_root) as service, pytest.raises(InvalidInputError) as caught:
        service.process(payload)
    assert (caught.value.given, caught.value.hint) == (given, hint)


def test_a_role_that_is_no_misspelt_one_is_the_templates_affair(model_root: Path) -> None:
    chat = [{"role": "function", "content": "3"}, {"role": "model", "content": "Three."}]
    with _service(model_root) as service:
        assert service.generate(chat)[0]["text"]


def test_choices_of_which_there_is_none() -> None:
    with pytest.raises(InvalidOptionError, match="must be a list of strings, at least one, not"):
        _config(sampling={"choice": []})


def test_texts_roles_and_adapters_that_are_none(model_root: Path) -> None:
    with _service(model_root) as service:
        with pytest.raises(InvalidInputError, match="text 1 must be a non-empty string, not None"):
            service.embed(["Hello", None])  # type: ignore[list-item]  # as a table has it
        with pytest.raises(InvalidOptionError, match="unknown role 'embedd'") as caught:
            service.count_tokens("Hello", role="embedd")
        assert (caught.value.name, caught.value.given) == ("role", "embedd")
        with pytest.raises(InvalidOptionError, match=r"no LoRA adapter.*model show") as caught:
            service.generate("Hello", lora="test/tiny-chat")
        assert (caught.value.name, caught.value.given) == ("lora", "test/tiny-chat")
        with pytest.raises(InvalidInputError, match="one prompt, not 2; call stream"):
            service.stream(["Hello", "you"])


def _service(model_root: Path) -> VLLMService:
    config = {"model_id": "test/tiny-chat", "model_root": model_root}
    return VLLMService(config, engine_factory=EchoEngine)
