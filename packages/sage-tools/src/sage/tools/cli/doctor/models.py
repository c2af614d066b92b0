"""The registry, the hub that models come from, and the folders that are written to."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from sage.common.model_registry.vllm_registry import (
    ModelRegistryError,
    check_sizes,
    format_bytes,
    plan_prune,
    registry_root,
)
from sage.common.run_folder import run_root
from sage.tools.cli.doctor.environment import without_secrets
from sage.tools.cli.doctor.finding import Finding, Status
from sage.tools.cli.doctor.machine import existing
from sage.tools.cli.models.way_to_mend import way_to_mend
from sage.tools.cli.terminal.output import error_lines

_HUB = "https://huggingface.co"
_HUB_SECONDS = 5
_TRUE = ("1", "ON", "YES", "TRUE")  # as the hub's client reads its switches


def check_registry() -> Sequence[Finding]:
    """Whether the registry can be read and written and its models are whole, by their sizes."""
    root = registry_root()
    if problem := _not_writable(root):
        return [_problem("Registry", problem, "Set SAGE_VLLM_MODEL_ROOT to a folder of yours.")]
    try:
        reports = check_sizes()
        leftovers = plan_prune()
    except ModelRegistryError as error:
        return [_problem("Registry", *error_lines(error))]
    found = []
    for report in reports:
        if not report.ok:
            model = report.model
            detail = f"{model.model_id} {model.revision} is broken: " + ", ".join(
                f"{path} ({problem})" for path, problem in list(report.problems.items())[:3]
            )
            if len(report.problems) > 3:
                detail += f" and {len(report.problems) - 3} more files"
            found.append(_problem("Registry", detail, way_to_mend(model)))
    if leftovers.leftovers:
        detail = (
            f"{format_bytes(leftovers.freed_bytes)} of left-overs of interrupted work under {root}"
        )
        fix = "`sage llm model prune`"
        found.append(Finding(name="Registry", status=Status.WARNING, detail=detail, fix=fix))
    if found:
        return found
    count, size = len(reports), sum(report.model.size_bytes for report in reports)
    held = f"{count} model{'s' if count != 1 else ''}, {format_bytes(size)}"
    return [Finding(name="Registry", detail=f"{held if count else 'no models yet'}, at {root}")]


def check_run_folder() -> Sequence[Finding]:
    """Whether services and servers can leave word of themselves."""
    root = run_root()
    if problem := _not_writable(root):
        fix = "Set SAGE_RUN_ROOT to a folder of yours; without it nothing can be started."
        return [_problem("Run folder", problem, fix)]
    return [Finding(name="Run folder", detail=str(root))]


def check_hub() -> Sequence[Finding]:
    """Whether models can be downloaded."""
    endpoint = (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
    shown = without_secrets(endpoint)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in _TRUE:
            return [Finding(name="Hub", detail=f"not asked: {name} is set")]
    start = time.monotonic()
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=_HUB_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()
        if answer.code >= 500:
            return [_unreachable(f"{shown} answers with {answer.code} {answer.reason}")]
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        return [_unreachable(f"{shown} cannot be reached: {without_secrets(str(why))}")]
    milliseconds = 1000 * (time.monotonic() - start)
    return [Finding(name="Hub", detail=f"{shown} answers, in {milliseconds:.0f} ms")]


def _unreachable(detail: str) -> Finding:
    fix = (
        "Local models work all the same. For a mirror set HF_ENDPOINT, for a proxy HTTPS_PROXY; "
        "without a network set HF_HUB_OFFLINE=1 and use `sage llm model import`."
    )
    return Finding(name="Hub", status=Status.WARNING, detail=detail, fix=fix)


def _not_writable(folder: Path) -> str:
    nearest = existing(folder)
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} cannot be written"
    return ""


def _problem(name: str, detail: str, fix: str) -> Finding:
    return Finding(name=name, status=Status.PROBLEM, detail=detail, fix=fix)
