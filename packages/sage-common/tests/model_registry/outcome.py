"""What must be true of the registry after a download that failed, and after one that did not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry_process import MODEL

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "hf_averysecrettoken"
AGAIN = "sage llm model download --model owner/name"
HUB_IS_DOWN: dict[str, Any] = {
    "set": {"sage.common.model_registry.download.transfer:RETRY_DELAYS": []}
}
"""For what would be tried again in vain."""


def assert_refused(answer: dict[str, Any], error: str, root: Path, *, hint: str) -> None:
    """It failed with this error, says what to do, and lists and leaks nothing."""
    assert answer.get("error") == error, answer
    assert MODEL in answer["text"]
    assert hint in answer["hint"]
    assert "Traceback" not in answer["stderr"]
    assert TOKEN not in answer["text"] + answer["stderr"]
    assert vllm_registry.list_models(root=root) == []


def assert_arrived(answer: dict[str, Any], commit: str, root: Path) -> None:
    assert answer.get("commit") == commit, answer
    assert vllm_registry.verify_model(MODEL, root=root).ok
    assert [model.commit for model in vllm_registry.list_models(root=root)] == [commit]
