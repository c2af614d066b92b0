"""One version for all packages, read from what they are built from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).parents[2]


def projects() -> dict[str, dict[str, Any]]:
    files = [tomllib.loads(path.read_text()) for path in PACKAGES.glob("*/pyproject.toml")]
    return {file["project"]["name"]: file["project"] for file in files}


def own_requirements(project: dict[str, Any]) -> list[str]:
    optional = project.get("optional-dependencies", {}).values()
    requirements = [
        *project.get("dependencies", []),
        *(each for group in optional for each in group),
    ]
    own = [each for each in requirements if each.startswith("isage")]
    return [re.sub(r"\[\w+\]", "", each) for each in own]  # an extra says nothing of the version


def test_all_packages_carry_one_version() -> None:
    names = ("common", "kernel", "libs", "middleware", "tools", "tuning")
    assert set(projects()) == {f"isage-{name}" for name in names}
    assert len({project["version"] for project in projects().values()}) == 1


def test_they_require_each_other_at_exactly_that_version() -> None:
    # Packages of these names and lower versions are on public indexes: no installer may mix them.
    allowed = {f"{name}=={project['version']}" for name, project in projects().items()}
    required = {name: own_requirements(project) for name, project in projects().items()}
    assert {each for requirements in required.values() for each in requirements} <= allowed
    assert [name for name, requirements in required.items() if not requirements] == ["isage-common"]
