"""No home, and no entry in /etc/passwd, as in many containers; a home that cannot be written."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

UID = 54321
SERVICE = """
import json, os, sys
from sage.common.components.sage_vllm.service import VLLMService

config = {
    "model_id": "test/tiny-chat", "model_root": sys.argv[1],
    "engine": {"kv_cache_memory_bytes": 32 << 20},
}
with VLLMService(config) as service:
    (answer,) = service.generate("Hello", max_tokens=8, ignore_eos=True)
    runs = os.listdir(os.environ["SAGE_RUN_ROOT"]) if "SAGE_RUN_ROOT" in os.environ else None
print(json.dumps({"uid": os.getuid(), "tokens": answer["tokens_used"]["completion"], "runs": runs}))
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run Python as such a user, in a folder of its own, where it finds what this user has."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs a privileged one")
    with pytest.raises(KeyError):
        pwd.getpwuid(UID)
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, UID, UID)
    for folder in (tmp_path, *tmp_path.parents[:2]):  # pytest makes them for this user alone
        folder.chmod(0o755)
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    # The interpreter may lie in this user's home; it may be read, and nothing else be written.
    become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]

    def run_it(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return subprocess.run(
            [*become, sys.executable, *command],
            cwd=work,
            env={**kept, **variables},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    return run_it


def test_a_service_works_with_a_model_root_and_a_run_root(
    run: Run, model_root: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    done = run("-c", SERVICE, str(model_root), SAGE_RUN_ROOT=str(work / "run"))
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["uid"], seen["tokens"]) == (UID, 8)
    assert len(seen["runs"]) == 2  # its record, and the lock
    assert "Traceback" not in done.stderr
    assert [path.name for path in work.iterdir()] == ["run"]  # and no folder "~"


def test_a_service_without_a_run_root_says_which_variable_to_set(
    run: Run, model_root: Path
) -> None:
    done = run("-c", SERVICE, str(model_root))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] == 8
    assert "`sage llm status` will not show service" in done.stderr
    assert "~/.sage/run has no place" in done.stderr
    assert "set SAGE_RUN_ROOT to a folder" in done.stderr


@pytest.mark.parametrize(
    ("call", "folder", "variable"),
    [
        ("model_registry.vllm_registry import list_models as f", "models/vllm", "VLLM_MODEL_ROOT"),
        ("run_folder import read_records as f", "run", "RUN_ROOT"),
    ],
)
def test_a_folder_without_a_place_names_its_variable(
    run: Run, tmp_path: Path, call: str, folder: str, variable: str
) -> None:
    script = f"from sage.common.{call}; print(f())"
    done = run("-c", script)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        f"NoHomeFolderError: ~/.sage/{folder} has no place: HOME is not set, and user {UID} has no "
        f"home; set SAGE_{variable} to a folder"
    )
    done = run("-c", script, **{f"SAGE_{variable}": str(tmp_path / "work" / "named")})
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_command_line_says_the_same(run: Run, tmp_path: Path) -> None:
    sage = str(Path(sys.executable).with_name("sage"))
    done = run(sage, "llm", "model", "show")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: ~/.sage/models/vllm has no place: HOME is not set, and user 54321 has no home",
        "Hint: Set SAGE_VLLM_MODEL_ROOT to a folder",
    ]
    models = str(tmp_path / "work" / "models")
    done = run(sage, "llm", "model", "show", SAGE_VLLM_MODEL_ROOT=models)
    assert done.returncode == 0, done.stderr


def test_a_service_works_with_a_home_that_cannot_be_written(
    model_root: Path, tmp_path: Path
) -> None:
    mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("mounting needs a privileged user")
    kept = {name: value for name, value in os.environ.items() if name != "SAGE_RUN_ROOT"}
    done = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"),
            *(sys.executable, "-c", SERVICE, str(model_root)),
        ],
        env={**kept, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] == 8
    assert "Read-only file system" in done.stderr
    assert "SAGE_RUN_ROOT sets another folder" in done.stderr
    assert "Traceback" not in done.stderr
