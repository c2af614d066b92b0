"""The page on the vLLM service is true: its samples run on real engines and print what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from sage.common.components.sage_vllm.prometheus import VLLMServiceCollector
from sage.common.components.sage_vllm.sampling_options import SAMPLING_OPTIONS
from sage.common.components.sage_vllm.service import VLLMServiceConfig
from sage.common.components.sage_vllm.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import get_model_path, import_model

PACKAGES = Path(__file__).parents[3]
sys.path.insert(0, str(PACKAGES / "sage-common" / "tests" / "model_registry"))

from local_hub import LocalHub  # noqa: E402 - needs the path above

PAGE = PACKAGES.parent / "docs-public/docs_src/middleware/tools/vllm_service.md"
TEXT = PAGE.read_text(encoding="utf-8")
_SAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
SAMPLES = _SAMPLE.findall(TEXT)
_END = "-- end of a sample --\n"


def test_the_samples_print_what_the_page_says(model_root: Path, tmp_path: Path) -> None:
    assert len(SAMPLES) == TEXT.count("```python") == 24
    root = tmp_path / "registry"
    chat = get_model_path("test/tiny-chat", root=model_root)
    import_model("sage/tiny-chat", chat, root=root)
    import_model("sage/tiny-embed", get_model_path("test/tiny-base", root=model_root), root=root)
    import_model("sage/tiny-adapter", _write_adapter(tmp_path / "adapter", chat), root=root)
    # One program for all samples: they share a service.
    program = "".join(f"{code}print({_END!r}, end='', flush=True)\n" for code, _ in SAMPLES)
    with LocalHub() as hub:
        for seed, revision in ((5, "main"), (6, "v2")):
            other = write_tiny_model(tmp_path / revision, seed=seed)
            files = {file.name: file.read_bytes() for file in other.iterdir()}
            hub.add_model("sage/tiny-other", files, revision=revision)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**hub.environment(tmp_path / "home"), "SAGE_VLLM_MODEL_ROOT": str(root)},
            cwd=tmp_path,  # where a sample writes its data set
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    printed = done.stdout.split(_END)
    assert done.returncode == 0, f"{SAMPLES[len(printed) - 1][0]}\n{done.stderr}"
    wrong = [
        f"{code}\nprinted:\n{said}"
        for (code, expected), said in zip(SAMPLES, printed, strict=False)
        if not _matches(expected, said)
    ]
    assert wrong == [], "\n".join(wrong)


def _matches(expected: str, printed: str) -> bool:
    """Whether they are equal, "..." standing for anything in its line."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), printed) is not None


def test_every_configuration_key_and_option_is_on_the_page() -> None:
    named = set(re.findall(r"`(\w+)`", TEXT))
    assert {field.name for field in fields(VLLMServiceConfig)} <= named
    assert named >= SAMPLING_OPTIONS
    assert VLLMServiceCollector.__name__ in named


def test_the_pages_it_links_to_are_there() -> None:
    targets = set(re.findall(r"\]\(([^)]+)\)", TEXT))
    headings = {
        "#" + re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    sections = {target for target in targets if target.startswith("#")}
    assert sections <= headings
    assert len(targets - sections) == 3
    assert all((PAGE.parent / target).is_file() for target in targets - sections)


def _write_adapter(folder: Path, base: Path) -> Path:
    """Write a LoRA adapter of rank 4 with random weights, strong enough to change every text."""
    config = json.loads((base / "config.json").read_text())
    hidden, rank = config["hidden_size"], 4
    noise = np.random.default_rng(1)
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.{part}.weight": noise.normal(
            scale=0.5, size=shape
        ).astype(np.float32)
        for layer in range(config["num_hidden_layers"])
        for part, shape in (("lora_A", (rank, hidden)), ("lora_B", (hidden, rank)))
    }
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder
