"""Other ways to train: preferences, all weights, and an adapter that is added to them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from examples_file import as_lines
from skills import style

from sage.common.components.sage_vllm.fine_tuning import fine_tune
from sage.common.components.sage_vllm.planning.model_files import read_tensors
from sage.common.model_registry.vllm_registry import get_model, get_model_path
from sage.tools.demo_model import MODEL_ID


@pytest.fixture(scope="module")
def root(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(demo_root, tmp_path_factory.mktemp("demo") / "registry")


def request_for(folder: Path, examples: Any, held_out: Any, **fields: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text(as_lines(examples))
    (folder / "eval.jsonl").write_text(as_lines(held_out))
    hyperparameters = {"learning_rate": 3e-3, "epochs": 10, "threads": 1}
    return {
        "base_model": MODEL_ID,
        "dataset_path": folder / "train.jsonl",
        "eval_dataset_path": folder / "eval.jsonl",
        "output_dir": folder / "job",
        "strategy": "lora",
        "hyperparameters": {**hyperparameters, **fields.pop("hyperparameters", {})},
        **fields,
    }


def test_all_weights_can_be_trained_and_keep_the_type_of_the_base(
    root: Path, tmp_path: Path
) -> None:
    rate = {"learning_rate": 1e-3, "epochs": 5}
    fields = {"strategy": "full", "output_model": "my/full", "hyperparameters": rate}
    report = fine_tune(request_for(tmp_path, *style(300, 60), **fields), root=root)
    assert report["registered"], report["reason"]
    assert report["kind"] == "text"
    assert report["verification"]["exact_match_vllm"] >= 0.95
    assert_like_the_base("my/full", root)
    assert get_model("my/full", root=root).tags["strategy"] == "full"


def test_an_adapter_can_be_added_to_the_weights(root: Path, tmp_path: Path) -> None:
    fields = {"merge": True, "output_model": "my/merged"}
    report = fine_tune(request_for(tmp_path, *style(300, 60), **fields), root=root)
    assert report["registered"], report["reason"]
    exact = report["evaluation"]["after"]["exact_match"]
    assert exact >= 0.95
    assert abs(report["verification"]["exact_match_vllm"] - exact) <= 0.035  # two of sixty
    assert_like_the_base("my/merged", root)


def assert_like_the_base(model_id: str, root: Path) -> None:
    base, made = (get_model_path(each, root=root) for each in (MODEL_ID, model_id))
    names = {path.name for path in base.iterdir()}
    assert {path.name for path in made.iterdir()} == names | {"sage_fine_tune.json"}
    for name in names - {"model.safetensors"}:
        assert (made / name).read_bytes() == (base / name).read_bytes()
    shapes = [
        [(tensor.name, tensor.dtype, tensor.shape) for tensor in read_tensors("", file)]
        for file in (base / "model.safetensors", made / "model.safetensors")
    ]
    assert shapes[0] == shapes[1]


def short(example: dict[str, Any]) -> dict[str, Any]:
    """Return a preference of the answer's last words to the whole of it."""
    question, answer = example["messages"]
    said = answer["content"].removesuffix(" Over.")
    return {"prompt": [question], "chosen": said.split(" is ")[-1], "rejected": said}


def test_preferences_are_learned(root: Path, tmp_path: Path) -> None:
    training, held_out = ([short(e) for e in examples] for examples in style(300, 60))
    training = [e for e in training if e["chosen"] != e["rejected"]]
    held_out = [e for e in held_out if e["chosen"] != e["rejected"]]
    rate = {"learning_rate": 1e-3, "epochs": 4}
    request = request_for(
        tmp_path, training, held_out, output_model="my/short", hyperparameters=rate
    )
    report = fine_tune(request, root=root)
    after = report["evaluation"]["after"]
    assert after["preference_accuracy"] >= 0.95
    assert after["loss"] < report["evaluation"]["before"]["loss"]
    assert report["verification"]["loss_gap"] < 0.03 * after["chosen_loss"] + 0.02
    assert json.loads((tmp_path / "job" / "job.json").read_text())["method"] == "dpo"
