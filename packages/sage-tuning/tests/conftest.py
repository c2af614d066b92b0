"""What the tests of fine-tuning share: requests, and base models by their chat templates."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # importlib mode imports no neighbours by itself

from base_models import TEMPLATES, write_base
from examples_file import as_lines

from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import import_model

MakeRequest = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a tiny model of random weights, and one for each chat template."""
    folder = tmp_path_factory.mktemp("bases")
    import_model("test/tiny", write_tiny_model(folder / "tiny"), root=folder / "root")
    plain = write_tiny_model(folder / "plain", seed=1, chat_template=False)
    import_model("test/plain", plain, root=folder / "root")
    for name in TEMPLATES:
        import_model(f"base/{name}", write_base(folder / name, name), root=folder / "root")
    return folder / "root"


@pytest.fixture
def make_request(tmp_path: Path) -> MakeRequest:
    """A function that writes examples into a file and returns a request to train on them."""

    def make(examples: Sequence[Any], **fields: Any) -> dict[str, Any]:
        file = tmp_path / "train.jsonl"
        file.write_text(as_lines(examples))
        return {
            "base_model": "test/tiny",
            "dataset_path": file,
            "output_dir": tmp_path / "job",
            "strategy": "lora",
            **fields,
        }

    return make
