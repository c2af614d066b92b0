"""What the registry's tests share: a hub on this machine, and processes that use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

HERE = Path(__file__).parent
if str(HERE) not in sys.path:  # importlib mode leaves it out, and local_hub is shared with the CLI
    sys.path.insert(0, str(HERE))

from local_hub import LocalHub  # noqa: E402 - needs the path above
from model_files import safetensors  # noqa: E402 - needs the path above
from mounts import mounted  # noqa: E402 - needs the path above
from registry_process import MODEL, Registry  # noqa: E402 - needs the path above

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
def registry(hub: LocalHub, root: Path, tmp_path: Path) -> Registry:
    return Registry(hub, root, tmp_path / "hf-home")


@pytest.fixture
def files() -> dict[str, bytes]:
    """A small model in three shards."""
    return {
        "config.json": json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "torch_dtype": "bfloat16",
                "max_position_embeddings": 512,
            }
        ).encode(),
        "tokenizer.json": b"{}",
        **{f"model-0000{n}-of-00003.safetensors": safetensors(300_000, seed=n) for n in (1, 2, 3)},
    }


@pytest.fixture
def commit(hub: LocalHub, files: dict[str, bytes]) -> str:
    return hub.add_model(MODEL, files)


@pytest.fixture
def source(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """The same model as a folder."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def _no_root_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAGE_VLLM_MODEL_ROOT", str(tmp_path / "default-root"))
    for name in [each for each in os.environ if each.startswith("HF_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def read_only(root: Path) -> Iterator[Path]:
    """The root, mounted read-only over itself; by mode bits where mounting is not permitted."""
    root.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        with mounted("--bind", str(root), folder=root):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
            yield root
    else:
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        yield root
        for folder in folders:
            folder.chmod(0o755)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs", folder=folder):
        yield folder
