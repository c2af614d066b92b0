"""The device, its memory, and the disk that the models are on."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sage.common.model_registry.vllm_registry import format_bytes, registry_root
from sage.tools.cli.doctor.finding import Finding, Status
from sage.tools.cli.machine.device import Cpu, cpu, gpus
from sage.tools.cli.machine.machine_memory import machine_memory

_LITTLE_MEMORY = 2 << 30
"""An engine takes 0.8 GB before the weights."""
_LITTLE_DISK = 10 << 30
"""A model of some billion parameters."""


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU; one that does not answer is one too."""
    try:
        return bool(gpus())
    except (OSError, subprocess.SubprocessError, ValueError):
        return True


def check_device() -> Sequence[Finding]:
    """Say what there is to compute on."""
    try:
        found = gpus()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = (getattr(error, "stdout", "") or "").strip() or str(error)
        fix = "Load or reinstall NVIDIA's driver; after an update of it, restart the machine."
        detail = f"nvidia-smi fails: {said}"
        return [Finding(name="Device", status=Status.PROBLEM, detail=detail, fix=fix)]
    if found:
        return [Finding(name="Device", detail=f"{g.name}, driver {g.driver}") for g in found]
    return [_judge_cpu(cpu())]


def _judge_cpu(processor: Cpu) -> Finding:
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bfloat16", "amx_tile": "AMX"}
    has = [title for flag, title in known.items() if flag in processor.flags]
    detail = f"no GPU; {processor}{' with ' if has else ''}{', '.join(has)}"
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    if is_x86 and processor.flags and not processor.flags & {"avx2", "avx512f"}:
        fix = "vLLM needs AVX2 at least: use another machine."
        return Finding(name="Device", status=Status.PROBLEM, detail=detail, fix=fix)
    if is_x86 and processor.flags and "avx512f" not in processor.flags:
        detail += "; without AVX-512 models run in float32, slower and in twice the memory"
        fix = "A processor with AVX-512, or a GPU."
        return Finding(name="Device", status=Status.WARNING, detail=detail, fix=fix)
    return Finding(name="Device", detail=detail)


def check_memory() -> Sequence[Finding]:
    """How much memory an engine can have."""
    memory = machine_memory()
    if not memory.total:
        detail, fix = "cannot be told on this system", "Watch it while a model loads."
        return [Finding(name="Memory", status=Status.WARNING, detail=detail, fix=fix)]
    free, total = format_bytes(memory.free), format_bytes(memory.total)
    detail = f"{free} free of {total} on {memory.device}"
    if memory.free < _LITTLE_MEMORY:
        fix = "End what uses it; `sage llm model show <model>` says what a model needs."
        return [Finding(name="Memory", status=Status.WARNING, detail=detail, fix=fix)]
    return [Finding(name="Memory", detail=detail)]


def check_disk() -> Sequence[Finding]:
    """How much room there is for models."""
    folder = existing(registry_root())
    free = shutil.disk_usage(folder).free
    detail = f"{format_bytes(free)} free under {folder}"
    if free < _LITTLE_DISK:
        fix = "`sage llm model prune --unused-days 30`, or SAGE_VLLM_MODEL_ROOT on another disk."
        return [Finding(name="Disk", status=Status.WARNING, detail=detail, fix=fix)]
    return [Finding(name="Disk", detail=detail)]


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
