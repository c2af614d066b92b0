"""Registering a result, with all that tells where it comes from."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from sage.common.model_registry import ModelInfo, import_model
from sage.tuning.job.writer import JobWriter, write_json

PROVENANCE = "sage_fine_tune.json"
_NOT_OF_IT = ("output_dir", "job_id", "seconds", "tokens_per_second", "peak_memory_bytes")
"""What differs from one training to the next that is the same: it would make another commit."""


def publish(job: JobWriter, report: dict[str, Any]) -> ModelInfo:
    """Register the result under the id that was asked for; a result of it before stays too."""
    request = job.request
    write_json(job.result / PROVENANCE, provenance(job, report))
    evaluated = report["evaluation"]["after"]
    tags: dict[str, str | int] = {
        "base": request.base_model,
        "base_commit": job.job["base_commit"],
        "method": job.job["method"],
        "strategy": request.strategy,
        "dataset_sha256": _digest_of_dataset(job),
        "examples": job.job["report"]["examples"],
    }
    if report["kind"] == "lora":
        tags["rank"] = job.settings.rank
    if evaluated is not None:
        tags["eval_loss"] = f"{evaluated['loss']:.4f}"
    if report["verification"] is not None and "exact_match_vllm" in report["verification"]:
        tags["exact_match"] = f"{report['verification']['exact_match_vllm']:.3f}"
    return import_model(str(request.output_model), job.result, tags=tags, root=request.root)


def _digest_of_dataset(job: JobWriter) -> str:
    """Return the digest of the file with examples; of several, that of their digests."""
    digests = [job.job["datasets"][str(path)] for path in job.request.dataset_paths]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def provenance(job: JobWriter, report: dict[str, Any]) -> dict[str, Any]:
    """Return where a result comes from, without anything that is this machine's."""
    request = {
        name: value
        for name, value in job.job["request"].items()
        if name not in ("root", "output_dir", "base_model_path") and not name.endswith("_path")
    }
    return {
        "request": request,
        "settings": job.job["settings"],
        "base_commit": job.job["base_commit"],
        "datasets": [
            {"name": Path(path).name, "sha256": digest}
            for path, digest in job.job["datasets"].items()
        ],
        "data": {name: value for name, value in job.job["report"].items() if name != "mask"},
        "versions": job.job["versions"],
        "report": {
            name: value
            for name, value in json.loads(json.dumps(report)).items()
            if name not in _NOT_OF_IT
        },
    }
