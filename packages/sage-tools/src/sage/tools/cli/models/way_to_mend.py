"""What makes a damaged model whole again."""

from __future__ import annotations

from sage.common.model_registry.vllm_registry import ModelInfo


def way_to_mend(model: ModelInfo) -> str:
    """Return the commands for it: they depend on where the model is from."""
    from sage.tools.demo_model import MODEL_ID

    name, revision = model.model_id, f"--revision {model.revision}"
    if name == MODEL_ID:
        again = "`python -m sage.tools.demo_model` trains it again"
        return f"`sage llm model delete {name} --yes`, then {again}"
    if model.source != "hub":
        return f"Import it again: `sage llm model import {name} <folder> {revision}`"
    return f"`sage llm model repair {name} {revision}`"
