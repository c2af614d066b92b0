"""What is refused before anything is trained, besides wrong examples: disks, bases, other hands."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.fine_tuning import (
    FineTuneJobError,
    FineTuneRequestError,
    check_request,
    resume_fine_tuning,
)
from sage.common.components.sage_vllm.fine_tuning.job_folder import LOCK
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import delete_model, import_model
from sage.tuning.job.making import make_job
from sage.tuning.plan import make_plan

MakeRequest = Callable[..., dict[str, Any]]
EXAMPLES = [{"prompt": f"{number} + 1 =", "completion": f" {number + 1}"} for number in range(9)]

_ON_A_SMALL_DISK = """
import json, sys
from sage.common.components.sage_vllm.fine_tuning import FineTuneRequestError, preview_fine_tuning
request, root = json.loads(sys.argv[1]), sys.argv[2]
try:
    preview_fine_tuning(request, root=root)
except FineTuneRequestError as error:
    print(json.dumps([error.field, str(error)]))
"""


def test_a_disk_that_is_too_small_is_refused_with_what_is_needed(
    make_request: MakeRequest, root: Path, tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a disk of its own needs the right to mount one")
    disk = tmp_path / "disk"
    disk.mkdir()
    request = {**make_request(EXAMPLES), "output_dir": disk / "job"}
    mounted = 'mount -t tmpfs -o size=4m small "$0" && exec "$@"'
    program = [sys.executable, "-c", _ON_A_SMALL_DISK, json.dumps(request, default=str), str(root)]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted, str(disk), *program],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    field, said = json.loads(done.stdout)
    assert field == "output_dir"
    assert f"output_dir {str(disk / 'job')!r} needs about" in said
    assert "of disk, and 4.2 MB are free" in said
    assert "name a folder on another disk" in said


def test_a_job_goes_on_only_from_what_it_began_with(
    make_request: MakeRequest, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    import_model("test/base", write_tiny_model(tmp_path / "base"), root=own)
    request = make_request(EXAMPLES, base_model="test/base")
    folder = make_job(make_plan(check_request(request, root=own, read_examples=False)))

    with (folder / LOCK).open("a+b") as lock:  # as whoever works on it has it
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FineTuneJobError, match="is being worked on already; wait for it, or"):
            resume_fine_tuning(folder)

    text = request["dataset_path"].read_text()
    request["dataset_path"].write_text(text.replace("8", "9"))
    with pytest.raises(FineTuneRequestError, match="is not what it was") as raised:
        resume_fine_tuning(folder)
    assert (raised.value.field, "start a new" in str(raised.value)) == ("dataset_path", True)

    request["dataset_path"].write_text(text)
    delete_model("test/base", root=own)
    with pytest.raises(FineTuneRequestError, match=r"commit .* is no longer there") as raised:
        resume_fine_tuning(folder)
    assert (raised.value.field, "import that commit" in str(raised.value)) == ("base_model", True)
