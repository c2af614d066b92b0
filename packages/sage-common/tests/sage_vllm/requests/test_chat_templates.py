"""Models with several chat templates, on a real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import import_model

TALK = [{"role": "user", "content": "Hi there"}]
PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
WORDY = "{% for message in messages %}they said {{ message['content'] }} and so{% endfor %}"


def import_with(templates: dict[str, str], model_id: str, folder: Path, root: Path) -> None:
    model = write_tiny_model(folder, seed=1)
    config = json.loads((model / "tokenizer_config.json").read_text())
    named = [{"name": name, "template": text} for name, text in templates.items()]
    config["chat_template"] = named
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    import_model(model_id, model, root=root)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    import_with({"rag": WORDY, "plain": PLAIN}, "test/named", folder / "a", folder / "root")
    import_with({"rag": WORDY, "default": PLAIN}, "test/default", folder / "b", folder / "root")
    return folder / "root"


def open_service(model_id: str, root: Path, **sampling: object) -> VLLMService:
    return VLLMService(
        {
            "model_id": model_id,
            "model_root": root,
            "engine": {"kv_cache_memory_bytes": 64 << 20},
            "sampling": {"temperature": 0, "max_tokens": 6, **sampling},
        }
    )


@pytest.fixture(scope="module")
def named(root: Path) -> Iterator[VLLMService]:
    with open_service("test/named", root) as service:
        yield service


def test_a_model_without_a_default_names_its_templates(named: VLLMService) -> None:
    assert named.stats()["engine"]["chat_templates"] == ("plain", "rag")
    says = "'test/named' has several chat templates and no default: plain, rag; choose one"
    for call in (named.generate, named.count_tokens):
        with pytest.raises(InvalidRequestError, match=says) as raised:
            call(TALK)
        assert raised.value.option == "sampling.chat_template"
    assert named.generate("a plain text")[0]["text"]


def test_the_template_that_is_named_is_used(named: VLLMService) -> None:
    for name, text in (("plain", "Hi there"), ("rag", "they said Hi there and so")):
        (result,) = named.generate(TALK, chat_template=name)
        (expected,) = named.generate(text)
        assert result["text"] == expected["text"]
        (count,) = named.count_tokens(TALK, chat_template=name)
        assert count == result["tokens_used"]["prompt"]
    with pytest.raises(InvalidRequestError, match="no chat template 'plane'; did you mean 'plain'"):
        named.generate(TALK, chat_template="plane")


def test_a_service_has_a_template_for_all_its_calls(root: Path) -> None:
    with open_service("test/named", root, chat_template="rag") as service:
        (result,) = service.generate(TALK)
        assert [result["tokens_used"]["prompt"]] == service.count_tokens(TALK)
        assert result["text"] == service.generate("they said Hi there and so")[0]["text"]


def test_the_default_is_used_unless_another_is_named(root: Path) -> None:
    with open_service("test/default", root) as service:
        engine = service.stats()["engine"]
        assert engine["chat_templates"] == ("default", "rag")
        assert engine["chat_marks"] == ()  # these write no special tokens
        by_default = service.count_tokens(TALK)
        assert by_default == service.count_tokens(TALK, chat_template="default")
        assert by_default < service.count_tokens(TALK, chat_template="rag")


def test_a_single_template_is_the_default_and_no_other(service: VLLMService) -> None:
    assert service.generate(TALK, chat_template="default") is not None
    assert service.stats()["engine"]["chat_marks"] == ("<|end|>", "<|turn|>")
    with pytest.raises(InvalidRequestError, match="no chat template 'rag'; valid: default"):
        service.generate(TALK, chat_template="rag")
