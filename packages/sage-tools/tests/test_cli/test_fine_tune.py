"""`sage llm fine-tune`: the request is checked, and a backend that is installed is run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from command_line import lines, refused

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

MODEL = "owner/name"


@pytest.fixture(autouse=True)
def no_backend(sage: CommandLine, without_tuning: Path) -> None:
    sage.environment["PYTHONPATH"] = str(without_tuning)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    file = tmp_path / "dataset.jsonl"
    file.write_text('{"text": "a"}\n{"prompt": "2 + 2 =", "completion": " 4"}\n')
    return file


@pytest.fixture
def arguments(dataset: Path, tmp_path: Path, source: Path, root: Path) -> list[str]:
    """A request that is valid."""
    vllm_registry.import_model(MODEL, source, link=True, root=root)
    output = str(tmp_path / "tuned")
    given = ["--base-model", MODEL, "--dataset", str(dataset), "--output", output]
    return ["llm", "fine-tune", *given]


def test_without_a_backend_it_says_that_it_is_pending_and_where_to_contribute(
    sage: CommandLine, arguments: list[str], tmp_path: Path
) -> None:
    done = sage(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    valid, pending, hint = done.stderr.splitlines()
    assert valid == (
        f"The request is valid: lora on {MODEL} with 2 examples, into {tmp_path / 'tuned'}."
    )
    assert "pipeline is pending, no backend for 'lora'" in pending
    assert hint.startswith("Hint: ")
    assert "`sage.fine_tuning`" in hint
    assert not (tmp_path / "tuned").exists()


def test_pending_as_json_has_the_checked_request(
    sage: CommandLine, arguments: list[str], tmp_path: Path, root: Path
) -> None:
    done = sage(
        *arguments,
        *("--strategy", "full", "--json"),
        *("--hyperparameter", "epochs=3", "--hyperparameter", "optimizer=muon"),
    )
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "status": "pending",
        "request": {
            "base_model": MODEL,
            "base_model_path": str(vllm_registry.get_model_path(MODEL, root=root)),
            "dataset_path": str(tmp_path / "dataset.jsonl"),
            "output_dir": str(tmp_path / "tuned"),
            "strategy": "full",
            "example_count": 2,
            "hyperparameters": {"epochs": 3, "optimizer": "muon"},
        },
    }


def test_a_dry_run_only_checks(sage: CommandLine, arguments: list[str]) -> None:
    assert lines(sage(*arguments, "--dry-run")) == []
    checked = "\n".join(lines(sage(*arguments, "--dry-run", "--json")))
    assert json.loads(checked)["status"] == "valid"


def test_the_bad_lines_of_a_dataset_are_named(
    sage: CommandLine, arguments: list[str], dataset: Path
) -> None:
    dataset.write_text('{"text": "a"}\n{"prompt": "x"}\nnonsense\n')
    refused(sage(*arguments), "line 2 needs both", "line 3 is not JSON", '"completion": ...')


@pytest.mark.parametrize(
    ("extra", "said", "code"),
    [
        (["--base-model", "owner/nome"], "Did you mean owner/name", 1),
        (["--dataset", "missing.jsonl"], "No such file", 1),
        (["--output", "/dev/null"], "is not a folder", 1),
        (["--strategy", "lore"], "did you mean 'lora'", 2),
        (["--hyperparameter", "epochs"], "KEY=VALUE", 2),
    ],
)
def test_a_wrong_field_is_named(
    extra: list[str], said: str, code: int, sage: CommandLine, arguments: list[str]
) -> None:
    refused(sage(*arguments, *extra), said, code=code)


def test_a_missing_option_is_wrong_use(sage: CommandLine) -> None:
    refused(sage("llm", "fine-tune", "--base-model", MODEL), "'--dataset'", code=2)


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """A folder with a distribution that brings a backend, as an installer lays it out."""
    site = tmp_path / "site"
    metadata = site / "toy_tuner-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "toy_tuner.py").write_text(
        "def train(request):\n"
        "    request.output_dir.mkdir()\n"
        "    (request.output_dir / 'adapter').write_text(str(request.hyperparameters['rank']))\n"
        "    return {'examples': request.example_count, 'adapter': request.output_dir}\n"
        "def fail(request):\n"
        "    raise RuntimeError('out of patience')\n"
    )
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-tuner\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[sage.fine_tuning]\nlora = toy_tuner:train\nfull = toy_tuner:fail\n"
    )
    return site


def test_a_backend_that_is_installed_is_run(
    sage: CommandLine, arguments: list[str], backend: Path, tmp_path: Path
) -> None:
    done = sage(*arguments, "--hyperparameter", "rank=8", PYTHONPATH=str(backend))
    assert lines(done) == ["examples: 2", f"adapter: {tmp_path / 'tuned'}"]
    assert (tmp_path / "tuned" / "adapter").read_text() == "8"

    again = [*arguments, "--hyperparameter", "rank=8", "--json"]
    refused(sage(*again, PYTHONPATH=str(backend)), "is not empty")
    other = str(tmp_path / "other")
    done = sage(*again, "--output", other, PYTHONPATH=str(backend))
    result = {"examples": 2, "adapter": other}
    assert json.loads("\n".join(lines(done))) == {"status": "done", "result": result}


def test_a_backend_that_fails_says_why(
    sage: CommandLine, arguments: list[str], backend: Path
) -> None:
    done = sage(*arguments, "--strategy", "full", PYTHONPATH=str(backend))
    refused(done, "RuntimeError: out of patience")
