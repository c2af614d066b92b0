"""Prompts of a model: what stands before a query and before a document, as it was trained."""

from __future__ import annotations

import json
from pathlib import Path


def read_model_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts of a model's folder by their names, such as ``query`` and ``document``.

    They are in ``config_sentence_transformers.json``; a model without that has none.
    """
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return {}
    prompts = json.loads(path.read_text(encoding="utf-8")).get("prompts")
    return dict(prompts) if isinstance(prompts, dict) else {}
