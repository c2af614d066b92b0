"""What is trained begins with the very tokens that the serving engine makes of the prompt."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from base_models import TEMPLATES

from sage.common.model_registry.vllm_registry import get_model_path
from sage.tuning.data.base_tokenizer import BaseTokenizer
from sage.tuning.data.rendering import Renderer, UnfitExampleError

CONVERSATIONS = [
    [
        {"role": "user", "content": "What is 7 minus 3?"},
        {"role": "assistant", "content": "It is 4."},
        {"role": "user", "content": "And  9 minus 5?\n"},
        {"role": "assistant", "content": "<think>Count.</think>It is 4, too."},
    ],
    [
        {"role": "user", "content": [{"type": "text", "text": "Größe: 3 °C"}]},
        {"role": "assistant", "content": " kalt 🥶 "},
    ],
]


def serving_renderer(name: str, path: Path) -> Any:
    """Return what renders for an engine of the model, without the engine."""
    pytest.importorskip("vllm")
    from vllm import EngineArgs
    from vllm.renderers import renderer_from_config

    from sage.common.components.sage_vllm.backend.vllm_renderer import VLLMRenderer
    from sage.common.components.sage_vllm.backend.vllm_runtime import _classes

    config = EngineArgs(model=str(path), enforce_eager=True).create_engine_config()
    renderer = renderer_from_config(config)
    parts = {"model_config": config.model_config, "vllm_config": config, "renderer": renderer}
    return VLLMRenderer(name, SimpleNamespace(**parts), _classes())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*[f"base/{name}" for name in TEMPLATES], "test/tiny"])
def test_prompts_have_the_tokens_that_they_are_served_with(name: str, root: Path) -> None:
    tokenizer = BaseTokenizer(name, get_model_path(name, root=root))
    serving = serving_renderer(name, tokenizer.folder)
    plain = "2 + 2 = 🥶"
    (row,) = Renderer(tokenizer).render({"prompt": plain, "completion": " 4"})
    assert row.prompt == list(serving.render(plain, {})["prompt_token_ids"])
    if name == "base/endless":
        with pytest.raises(UnfitExampleError, match="never learn to stop"):
            Renderer(tokenizer).render({"messages": CONVERSATIONS[0]})
        return
    for turns in CONVERSATIONS:
        rows = Renderer(tokenizer).render({"messages": turns})
        starts = [row.ids[:start] for row in rows for start, _ in row.spans]
        asked = [turns[:place] for place in range(1, len(turns), 2)]
        served = [list(serving.render(each, {})["prompt_token_ids"]) for each in asked]
        assert starts == served
