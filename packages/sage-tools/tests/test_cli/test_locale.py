"""Locales without UTF-8: what is read, written and shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAGE = str(Path(sys.executable).with_name("sage"))
TEXTS = ["Größe", "日本語", "🙂"]
JOB = """
import json, sys
from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource
env = LocalEnvironment("job")
env.from_source(JSONLSource, "frage-ü.jsonl").sink(JSONLSink, "antwort-ü.jsonl")
env.submit(checkpoint="stand-ü")
"""
# The last one is what Python makes of a locale that is neither C nor UTF-8, such as Latin-1.
LOCALES = [
    {"LANG": "C"},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"},
]


def run(
    *command: str, folder: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[bytes]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "PYTHON")) and name != "LANG"
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**kept, "SAGE_VLLM_MODEL_ROOT": str(folder / "models"), **variables},
        capture_output=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("variables", LOCALES[:3])
def test_files_are_utf_8_by_content_and_name(tmp_path: Path, variables: dict[str, str]) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    (tmp_path / "frage-ü.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    done = run("job.py", folder=tmp_path, variables=variables)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "antwort-ü.jsonl").read_bytes().decode("utf-8").splitlines()
    assert [json.loads(line)["text"] for line in written] == TEXTS


@pytest.mark.parametrize("variables", LOCALES)
def test_the_command_line_shows_what_the_terminal_cannot(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "_name": "Größe"}', encoding="utf-8"
    )
    header = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")
    done = run(
        SAGE, "llm", "model", "import", "test/x", "model", folder=tmp_path, variables=variables
    )
    assert done.returncode == 0, done.stderr
    done = run(SAGE, "llm", "model", "show", "--json", folder=tmp_path, variables=variables)
    assert json.loads(done.stdout)[0]["model_id"] == "test/x"
    done = run(SAGE, "llm", "model", "show", "größe/日本", folder=tmp_path, variables=variables)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ")
    assert b"Hint: " in done.stderr
    assert b"Traceback" not in done.stderr


def test_no_file_is_opened_by_the_locale() -> None:
    sources = sorted(map(str, Path(__file__).parents[3].glob("sage-*/src")))
    check = [sys.executable, "-m", "ruff", "check", "--preview", "--isolated"]
    done = subprocess.run(
        [*check, "--select", "PLW1514", *sources], capture_output=True, text=True, check=False
    )
    assert len(sources) == 6
    assert done.returncode == 0, done.stdout
