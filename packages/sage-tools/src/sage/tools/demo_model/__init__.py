"""A tiny chat model that is trained on this machine, so that demos and tests need no download."""

from __future__ import annotations

from sage.tools.demo_model.ensure import MODEL_ID, ensure_demo_model
from sage.tools.demo_model.prompts import demo_prompts, expected_answer

__all__ = ["MODEL_ID", "demo_prompts", "ensure_demo_model", "expected_answer"]
