"""Fine-tuning requests, and the way to an installed backend."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.fine_tuning import (
    FineTuneRequest,
    FineTuneRequestError,
    FineTuningPendingError,
    check_request,
    fine_tune,
)
from sage.common.components.sage_vllm.fine_tuning.errors import STRATEGIES
from sage.common.components.sage_vllm.testing.echo_engine import write_echo_model
from sage.common.model_registry.vllm_registry import (
    InvalidModelIdError,
    ModelNotFoundError,
    import_model,
)

MODEL = "test/base"
EXAMPLES = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"prompt": "2 + 2 =", "completion": " 4"},
    {"text": "Once upon a time"},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    import_model(MODEL, write_echo_model(folder / "model"), root=folder / "root")
    return folder / "root"


@pytest.fixture
def request_fields(tmp_path: Path) -> dict[str, Any]:
    """A request that is valid."""
    dataset = tmp_path / "data.jsonl"
    dataset.write_text("".join(json.dumps(example) + "\n" for example in EXAMPLES))
    return {
        "base_model": MODEL,
        "dataset_path": str(dataset),
        "output_dir": tmp_path / "new" / "folder",
        "strategy": "lora",
    }


@pytest.fixture(autouse=True)
def no_backend(without_tuning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(without_tuning)


def refusal(request: Any, root: Path) -> FineTuneRequestError:
    with pytest.raises(FineTuneRequestError) as raised:
        check_request(request, root=root)
    return raised.value


def test_a_valid_request_is_checked_and_changes_nothing(
    request_fields: dict[str, Any], root: Path
) -> None:
    request_fields["hyperparameters"] = {"rank": 8}
    checked = check_request(request_fields, root=root)
    assert (checked.base_model, checked.strategy, checked.example_count) == (MODEL, "lora", 3)
    assert (checked.base_model_path / "config.json").is_file()
    assert checked.hyperparameters == {"rank": 8}
    assert not (request_fields["output_dir"].parent).exists()
    assert pickle.loads(pickle.dumps(checked)) == checked


def test_an_empty_output_folder_will_do(request_fields: dict[str, Any], root: Path) -> None:
    request_fields["output_dir"].mkdir(parents=True)
    assert check_request(request_fields, root=root).output_dir == request_fields["output_dir"]


@pytest.mark.parametrize("name", ["base_model", "dataset_path", "output_dir", "strategy"])
def test_a_missing_field_is_named(request_fields: dict[str, Any], root: Path, name: str) -> None:
    del request_fields[name]
    error = refusal(request_fields, root)
    assert error.field == name
    assert f"{name!r} is missing" in str(error)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("dataset", "x", "did you mean 'dataset_path'?"),
        ("strategy", "lore", "did you mean 'lora'?"),
        ("strategy", 7, ", ".join(sorted(STRATEGIES))),
        ("hyperparameters", [1], "must be a mapping, not [1]"),
        ("base_model", 7, "base_model must be a string, not 7"),
        ("dataset_path", 7, "dataset_path must be a path, not 7"),
        ("output_dir", "", "output_dir must be a path, not ''"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_what_is_valid(
    request_fields: dict[str, Any], root: Path, name: str, value: Any, said: str
) -> None:
    error = refusal({**request_fields, name: value}, root)
    assert error.field == name
    assert said in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field) == (str(error), name)


def test_a_request_must_be_a_mapping(root: Path) -> None:
    assert "must be a mapping, not 'lora'" in str(refusal("lora", root))


def test_the_base_model_must_be_in_the_registry(request_fields: dict[str, Any], root: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"Did you mean {MODEL}"):
        check_request({**request_fields, "base_model": "test/bass"}, root=root)
    with pytest.raises(InvalidModelIdError):
        check_request({**request_fields, "base_model": "../x"}, root=root)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b'{"text": "a"}\n\n{"text": \n', "line 3 is not JSON"),
        (b'{"text": "a"}\n["b"]\n', 'line 2 must be an object, not ["b"]'),
        (b'{"txt": "a"}\n', "line 1 needs messages, a prompt and a completion, or a text"),
        (b'{"prompt": "a"}\n', "line 1 needs both a prompt and a completion"),
        (b'{"messages": []}\n', "line 1 must have a list of turns"),
        (b'{"messages": [{"role": "user"}]}\n', "line 1 needs a role and a content in turn 1"),
        (b'{"text": "\xff"}\n', "line 1 is not JSON"),
        (b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        (b"\n", "holds no examples"),
    ],
)
def test_a_bad_line_of_the_dataset_is_named(
    request_fields: dict[str, Any], root: Path, lines: bytes, said: str
) -> None:
    Path(request_fields["dataset_path"]).write_bytes(lines)
    error = refusal(request_fields, root)
    assert error.field == "dataset_path"
    assert said in str(error)
    assert request_fields["dataset_path"] in str(error)


def test_all_bad_lines_are_found_and_the_first_ones_named(
    request_fields: dict[str, Any], root: Path
) -> None:
    Path(request_fields["dataset_path"]).write_text(
        '{"text": "a"}\n' + "{}\n" * 2 + "nonsense\n" * 6
    )
    error = refusal(request_fields, root)
    assert "line 2 needs" in error.problem
    assert "line 6 is not JSON" in error.problem
    assert "line 7" not in error.problem
    assert error.problem.endswith("; and 3 more.")
    assert '{"prompt": ..., "completion": ...}' in error.hint


def test_a_dataset_may_be_several_files(
    request_fields: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("data.jsonl", "more.jsonl", "last.jsonl")]
    files[1].write_text('{"text": "b"}\n')
    files[2].write_text('{"text": "c"}\n\n{"text": "d"}\n')
    checked = check_request({**request_fields, "dataset_path": list(map(str, files))}, root=root)
    assert (checked.dataset_paths, checked.example_count) == (tuple(files), 6)
    assert FineTuneRequest.from_json(json.loads(json.dumps(checked.to_json()))) == checked
    with pytest.raises(FineTuneRequestError, match="reads one file with examples, not 3"):
        _ = checked.dataset_path  # what a backend of one file asks for
    (alone,) = files[:1]
    checked = check_request({**request_fields, "dataset_path": [alone]}, root=root)
    assert checked.dataset_path == alone
    assert checked.to_json()["dataset_path"] == str(alone)

    files[1].write_text('{"text": "b"}\nnonsense\n')
    files[2].write_text("\n")
    files.append(tmp_path / "none.jsonl")
    error = refusal({**request_fields, "dataset_path": files}, root)
    assert error.problems[0].startswith(f"line 2 of {str(files[1])!r} is not JSON")
    assert error.problems[1] == f"{str(files[2])!r} holds no examples"
    assert error.problems[2] == f"{str(files[3])!r} cannot be read (No such file or directory)"
    assert f"dataset_path of 4 files: line 2 of {str(files[1])!r}" in str(error)
    assert "names" in str(refusal({**request_fields, "dataset_path": [alone, alone]}, root))
    assert "must name a file" in str(refusal({**request_fields, "dataset_path": []}, root))
    assert "a path, not 7" in str(refusal({**request_fields, "dataset_path": [alone, 7]}, root))


def test_a_dataset_that_cannot_be_read(
    request_fields: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    request_fields["dataset_path"] = tmp_path / "none.jsonl"
    assert "No such file" in str(refusal(request_fields, root))
    request_fields["dataset_path"] = tmp_path
    assert "Is a directory" in str(refusal(request_fields, root))


def test_an_output_folder_that_cannot_be_used(
    request_fields: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    assert "not empty" in str(refusal({**request_fields, "output_dir": tmp_path}, root))
    dataset = Path(request_fields["dataset_path"])
    assert "is not a folder" in str(refusal({**request_fields, "output_dir": dataset / "x"}, root))
    assert "model registry" in str(refusal({**request_fields, "output_dir": root / "x/y"}, root))
    if os.geteuid():  # nothing is read-only for root
        sealed = tmp_path / "sealed"
        sealed.mkdir(mode=0o500)
        error = refusal({**request_fields, "output_dir": sealed / "x"}, root)
        assert "cannot be written" in str(error)


def test_without_a_backend_it_is_pending(request_fields: dict[str, Any], root: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"^Fine-tuning pipeline pending$") as raised:
        fine_tune(request_fields, root=root)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(copy, FineTuningPendingError)
    assert copy.request == check_request(request_fields, root=root)


def install(folder: Path, entry_points: str) -> None:
    """Put a distribution with a backend into ``folder``, as an installer lays it out."""
    (folder / "toy_tuner.py").write_text(
        "def train(request):\n"
        "    request.output_dir.mkdir(parents=True)\n"
        "    (request.output_dir / 'adapter.txt').write_text(request.strategy)\n"
        "    return {'examples': request.example_count, 'by': 'lora'}\n"
        "def train_all(request):\n"
        "    return {'by': 'default'}\n"
        "def broken(request):\n"
        "    return None\n"
    )
    metadata = folder / "toy_tuner-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-tuner\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[sage.fine_tuning]\n{entry_points}\n")


def test_a_backend_is_chosen_by_strategy_and_does_the_work(
    request_fields: dict[str, Any], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "lora = toy_tuner:train\ndefault = toy_tuner:train_all")
    monkeypatch.syspath_prepend(site)
    assert fine_tune(request_fields, root=root) == {"examples": 3, "by": "lora"}
    assert (request_fields["output_dir"] / "adapter.txt").read_text() == "lora"
    full = {**request_fields, "strategy": "full", "output_dir": tmp_path / "other"}
    assert fine_tune(full, root=root) == {"by": "default"}


def test_a_backend_must_return_a_mapping(
    request_fields: dict[str, Any], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "qlora = toy_tuner:broken")
    monkeypatch.syspath_prepend(site)
    with pytest.raises(TypeError, match="toy_tuner:broken must return a mapping, not None"):
        fine_tune({**request_fields, "strategy": "qlora"}, root=root)
    with pytest.raises(NotImplementedError):
        fine_tune(request_fields, root=root)  # no backend for lora
