"""Prompts of an embedding model: what it was trained to see before a query or a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sage.common.components.sage_vllm.planning.model_files import BrokenModelError, read_json

_FILE = "config_sentence_transformers.json"
_EMPTY_OTHERWISE = ("query", "document")  # a model of sentence-transformers always has these


@dataclass(frozen=True, kw_only=True)
class TextPrompts:
    """The prompts ``by_name``, such as ``query`` and ``document``; ``default`` is one's name.

    The default stands before each text that is embedded without naming a prompt.
    """

    by_name: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None


def read_text_prompts(model_id: str, folder: Path) -> TextPrompts:
    """Return the prompts of a model's folder; none if sentence-transformers did not save it.

    Raises BrokenModelError for a file that cannot be read, and for a default that is no prompt.
    """
    path = folder / _FILE
    if not path.is_file():
        return TextPrompts()
    config = read_json(model_id, path, dict)
    named, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(named, dict) or any(not isinstance(t, str | None) for t in named.values()):
        raise BrokenModelError(model_id, "has no 'prompts' by name", path)
    by_name = {name: text or "" for name, text in named.items()}
    if default in _EMPTY_OTHERWISE:
        by_name.setdefault(default, "")
    if default is not None and default not in by_name:
        raise BrokenModelError(
            model_id, f"names {default!r} as default, which is none of its prompts", path
        )
    return TextPrompts(by_name=by_name, default=default)
