"""``python -m sage.tools.demo_model``: make the demo model where it is missing, print its path."""

from __future__ import annotations

from sage.common.model_registry.vllm_registry import get_model_path
from sage.tools.demo_model.ensure import ensure_demo_model

if __name__ == "__main__":
    print(get_model_path(ensure_demo_model()))
