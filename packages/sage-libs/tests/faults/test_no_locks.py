"""File systems without locks: what works there, and what is said."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REFUSALS = ["ENOLCK", "EOPNOTSUPP", "ENOSYS"]
JOB = """
import logging, sys
from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSink
logging.basicConfig(format="%(message)s")
env = LocalEnvironment("job")
env.from_collection([{"n": n} for n in range(100)]).sink(JSONLSink, "out.jsonl")
env.submit(checkpoint="checkpoint")
"""
REGISTRY = """
import sys
from threading import Thread
from sage.common.model_registry import vllm_registry as registry
names = [f"test/model-{n}" for n in range(6)]
threads = [
    Thread(target=registry.import_model, args=(name, "model"), kwargs={"root": "root"})
    for name in names
]
[each.start() for each in threads]
[each.join() for each in threads]
registry.touch_model(names[0], root="root")
registry.delete_model(names[1], root="root")
print(len(registry.list_models(root="root")), registry.plan_prune(root="root").leftovers)
"""
RECORD = """
import logging
from pathlib import Path
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine, write_echo_model
from sage.common.model_registry.vllm_registry import import_model
logging.basicConfig(format="%(message)s")
import_model("test/echo", write_echo_model(Path("echo")), root="models")
config = {"model_id": "test/echo", "model_root": "models"}
with VLLMService(config, engine_factory=EchoEngine) as service:
    print(service.generate("Hello")[0]["text"])
"""
COLLECTION = """
import os, signal
from threading import Thread
from sage.common.components.sage_embedding import get_embedding_model
from sage.middleware.components.memory import VDBMemoryCollection
with VDBMemoryCollection("memory", "notes", embedder=get_embedding_model("hash")) as notes:
    threads = [Thread(target=notes.insert_batch, args=([f"text {n}"],)) for n in range(6)]
    [each.start() for each in threads]
    [each.join() for each in threads]
    print(notes.count(), flush=True)
    with notes._table._lock.held():
        os.kill(os.getpid(), signal.SIGKILL)
"""
SERVER = """
import sys
from pathlib import Path
from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.model_registry.vllm_registry import import_model
from sage.tools.cli.main import main
import_model("test/tiny", write_tiny_model(Path("tiny")))
sys.argv = ["sage", "llm", "start", "test/tiny", "--background"]
main()
"""
Run = Callable[[str, str], subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the filter knows the calls of two processors")
    monkeypatch.setenv("SAGE_RUN_ROOT", str(tmp_path / "run"))

    def run_it(refusal: str, text: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(text)
        return subprocess.run(
            [sys.executable, str(HERE / "without_locks.py"), refusal, str(script)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run_it


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_run_goes_on_and_says_that_nothing_keeps_others_out(
    run: Run, tmp_path: Path, refusal: str
) -> None:
    done = run(refusal, JOB)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(100))
    assert set(done.stderr.splitlines()) == {
        "the file system of out.jsonl.partial has no locks: see to it that no second run writes "
        "there",
        "the file system of checkpoint has no locks: see to it that no second run uses this "
        "checkpoint",
    }


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_registry_is_written_by_one_at_a_time(run: Run, tmp_path: Path, refusal: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    header = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")
    done = run(refusal, REGISTRY)
    assert (done.returncode, done.stdout) == (0, "5 ()\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_works_without_a_record_of_it(run: Run) -> None:
    done = run("ENOLCK", RECORD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    (line,) = done.stderr.splitlines()
    assert "`sage llm status` will not show service" in line
    assert "No locks available" in line
    assert line.endswith("SAGE_RUN_ROOT sets another folder")


def test_a_collection_is_written_by_one_at_a_time_also_after_a_kill(run: Run) -> None:
    for count in (6, 12):  # the second one meets the lock of the first, which was killed
        done = run("ENOLCK", COLLECTION)
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, f"{count}\n"), done.stderr
        assert "Traceback" not in done.stderr


def test_a_server_is_refused_in_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_VLLM_MODEL_ROOT", str(tmp_path / "models"))
    done = run("ENOLCK", SERVER)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    error, hint = done.stderr.splitlines()
    assert error == "Error: The run folder cannot be used: [Errno 37] No locks available."
    assert "SAGE_RUN_ROOT" in hint
