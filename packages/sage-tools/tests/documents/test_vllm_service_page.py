"""The page on the vLLM service is true: its samples run on real engines and print what it says."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
from local_hub import LocalHub
from page_samples import DOCS, run
from safetensors.numpy import save_file

from sage.common.components.sage_vllm.prometheus import VLLMServiceCollector
from sage.common.components.sage_vllm.requests.sampling_options import SAMPLING_OPTIONS
from sage.common.components.sage_vllm.service import VLLMServiceConfig
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import get_model_path, import_model

PAGE = DOCS / "middleware/tools/vllm_service.md"


def test_the_samples_print_what_the_page_says(
    model_root: Path, tmp_path: Path, without_tuning: Path
) -> None:
    root = tmp_path / "registry"
    chat = get_model_path("test/tiny-chat", root=model_root)
    import_model("sage/tiny-chat", chat, root=root)
    import_model("sage/tiny-embed", get_model_path("test/tiny-base", root=model_root), root=root)
    import_model("sage/tiny-adapter", _write_adapter(tmp_path / "adapter", chat), root=root)
    with LocalHub() as hub:
        for seed, revision in ((5, "main"), (6, "v2")):
            other = write_tiny_model(tmp_path / revision, seed=seed)
            files = {file.name: file.read_bytes() for file in other.iterdir()}
            hub.add_model("sage/tiny-other", files, revision=revision)
        environment = {**hub.environment(tmp_path / "home"), "SAGE_VLLM_MODEL_ROOT": str(root)}
        environment["PYTHONPATH"] = str(without_tuning)
        run(PAGE, tmp_path, environment, one_program=True)  # the samples share a service


def test_every_configuration_key_and_option_is_on_the_page() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert {field.name for field in fields(VLLMServiceConfig)} <= named
    assert named >= SAMPLING_OPTIONS
    assert VLLMServiceCollector.__name__ in named


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
