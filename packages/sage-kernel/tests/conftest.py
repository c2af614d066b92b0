"""Hanging is how a kernel fails: every test here ends within seconds or is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            # The first that runs on a cluster starts it, on a busy machine in half a minute.
            on_cluster = "each_environment" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.timeout(90 if on_cluster else 30))
