"""What the tests of the command line share."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

HERE = Path(__file__).parent
REGISTRY_TESTS = HERE.parents[2] / "sage-common" / "tests" / "model_registry"
for folder in (HERE, REGISTRY_TESTS):  # importlib mode leaves them out
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from command_line import CommandLine  # noqa: E402 - needs the path above
from local_hub import LocalHub  # noqa: E402 - needs the path above
from model_files import safetensors  # noqa: E402 - needs the path above
from real_server import free_port  # noqa: E402 - needs the path above

from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model  # noqa: E402 - as above
from sage.common.model_registry.vllm_registry import import_model  # noqa: E402 - as above

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as hub:
        yield hub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def sage(hub: LocalHub, root: Path, tmp_path: Path) -> Iterator[CommandLine]:
    """The command line, with a hub and a registry that are nobody else's."""
    environment = hub.environment(tmp_path / "hf-home")
    for name in ("NO_COLOR", "SAGE_DEBUG", "COLUMNS"):
        environment.pop(name, None)
    with CommandLine({**environment, "SAGE_VLLM_MODEL_ROOT": str(root)}) as sage:
        yield sage


@pytest.fixture
def files() -> dict[str, bytes]:
    """A small model in three shards."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "bfloat16",
        "max_position_embeddings": 512,
    }
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    shards = {name: safetensors(200_000, seed=seed) for seed, name in enumerate(names)}
    return {"config.json": json.dumps(config).encode(), "tokenizer.json": b"{}", **shards}


@pytest.fixture
def source(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """The same model as a folder."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def endless_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a chat model whose answers take half a minute, and one that cannot chat."""
    folder = tmp_path_factory.mktemp("endless")
    root = folder / "registry"
    base = write_tiny_model(folder / "base", seed=1, chat_template=False)
    import_model("test/base", base, root=root)
    import_model("test/endless", write_tiny_model(folder / "chat", context=32_768), root=root)
    return root


@pytest.fixture
def environment(
    tmp_path: Path, model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """A run folder of one test alone, here too, and the registry of tiny models."""
    values = {"SAGE_RUN_ROOT": str(tmp_path / "run"), "SAGE_VLLM_MODEL_ROOT": str(model_root)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture(scope="module")
def servers(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line with a run folder of one module alone, which is this process's too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGE_VLLM_MODEL_ROOT", str(model_root))
        patch.setenv("SAGE_RUN_ROOT", str(tmp_path_factory.mktemp("servers") / "run"))
        patch.delenv("NO_COLOR", raising=False)
        with CommandLine(dict(os.environ)) as sage:
            yield sage
            sage("llm", "stop", "--all", "--force")


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    return free_port()
