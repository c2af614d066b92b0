"""A model with a template that thinks and calls tools: its tokenizer alone, and on an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sage.common.components.sage_vllm.backend.chat.answer_readers import AnswerReaders
from sage.common.components.sage_vllm.backend.chat.chat_format import ChatFormat
from sage.common.components.sage_vllm.backend.vllm_runtime import _classes
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.chat_templates import QWEN3_THINKING, QWEN3_TOKENS
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import import_model

MODEL = "test/thinks"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(
        tmp_path_factory.mktemp("thinks"),
        chat_template=QWEN3_THINKING,
        extra_tokens=(*QWEN3_TOKENS, "<|python_tag|>"),
        context=2048,
    )


@pytest.fixture(scope="session")
def vllm_config(model_folder: Path) -> Any:
    from vllm import EngineArgs

    return EngineArgs(model=str(model_folder), enforce_eager=True).create_engine_config()


@pytest.fixture(scope="session")
def renderer(vllm_config: Any) -> Any:
    from vllm.renderers import renderer_from_config

    return renderer_from_config(vllm_config)


@pytest.fixture(scope="session")
def tokenizer(renderer: Any) -> Any:
    return renderer.get_tokenizer()


@pytest.fixture(scope="session")
def chat_format(renderer: Any, vllm_config: Any) -> ChatFormat:
    return ChatFormat(MODEL, renderer, vllm_config.model_config, _classes())


@pytest.fixture
def readers(renderer: Any, vllm_config: Any, chat_format: ChatFormat) -> Any:
    """A function that makes the AnswerReaders of a model with these parsers."""

    def make(reasoning: str = "", tools: str | None = None) -> AnswerReaders:
        config = SimpleNamespace(
            structured_outputs_config=SimpleNamespace(reasoning_parser=reasoning),
            reasoning_config=None,
            model_config=vllm_config.model_config,
        )
        return AnswerReaders(
            MODEL, config, renderer, tool_parser=tools, chat_format=chat_format, vllm=_classes()
        )

    return make


@pytest.fixture(scope="module")  # tests of other things have no engine beside theirs
def thinker(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMService]:
    """A service whose model thinks, and calls tools, at random."""
    root = tmp_path_factory.mktemp("root")
    import_model(MODEL, model_folder, root=root)
    config = {
        "model_id": MODEL,
        "model_root": root,
        # In 16 bits, what is drawn would depend on what else is in the batch.
        "engine": {"dtype": "float32", "max_num_seqs": 64, "kv_cache_memory_bytes": 128 << 20},
        "sampling": {"temperature": 0, "max_tokens": 64},
    }
    with VLLMService(config) as opened:
        yield opened
