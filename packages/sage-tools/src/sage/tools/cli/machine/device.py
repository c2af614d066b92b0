"""What this machine computes on, without importing an engine to ask."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sage.common.components.sage_vllm.host.usable_cores import usable_cores

_SMI_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU; memory in bytes, 0 where it has none of its own or does not tell."""

    name: str
    driver: str
    total: int
    free: int


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The processor; `cores` are those that this process may keep busy, `flags` the kernel's."""

    name: str
    cores: int
    machine_cores: int
    flags: frozenset[str]

    def __str__(self) -> str:
        of_all = f" of {self.machine_cores}" if self.machine_cores > self.cores else ""
        return f"{self.name}, {self.cores}{of_all} core{'s' if self.machine_cores > 1 else ''}"


def gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs; empty where there are none.

    Raises OSError, subprocess.SubprocessError or ValueError where the driver does not answer.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    fields = "--query-gpu=name,driver_version,memory.total,memory.free"
    done = subprocess.run(
        [tool, fields, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=_SMI_SECONDS,
        check=False,
    )
    if "No devices were found" in done.stdout:
        return []
    done.check_returncode()
    found = []
    for line in done.stdout.splitlines():
        name, driver, total, free = (cell.strip() for cell in line.split(","))
        found.append(Gpu(name=name, driver=driver, total=_bytes(total), free=_bytes(free)))
    return found


def _bytes(mebibytes: str) -> int:
    return int(mebibytes) << 20 if mebibytes.isdigit() else 0


def cpu(system: Path = Path("/")) -> Cpu:
    """Return the processor, as far as the kernel tells in `proc` and `sys` of `system`."""
    try:
        text = (system / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    fields = {
        name.strip().lower(): value.strip()
        for name, colon, value in (line.partition(":") for line in text.splitlines())
        if colon
    }
    return Cpu(
        name=fields.get("model name") or platform.machine(),
        cores=usable_cores(system),
        machine_cores=os.cpu_count() or 1,
        flags=frozenset((fields.get("flags") or fields.get("features") or "").split()),
    )


def device_name() -> str:
    """Return the GPUs by name, the processor where there are none."""
    try:
        found = gpus()
    except (OSError, subprocess.SubprocessError, ValueError):
        found = []
    if found:
        return f"{len(found)} x {found[0].name}" if len(found) > 1 else found[0].name
    return str(cpu())
