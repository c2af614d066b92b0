"""A table of what was measured beside what it should at least, or at most, be."""

from __future__ import annotations

from rich.table import Table


class Goals:
    """Collects figures and their goals into ``table``."""

    def __init__(self) -> None:
        self.table = Table("Figure", "Measured", "Goal", "", title="Goals")

    def at_least(self, name: str, value: float, target: float, form: str = "{:.2f} x") -> None:
        """Add a figure that is good from ``target`` on."""
        self._add(name, form.format(value), f"at least {form.format(target)}", value >= target)

    def at_most(self, name: str, value: float, target: float, form: str = "{:.2f} x") -> None:
        """Add a figure that is good up to ``target``."""
        self._add(name, form.format(value), f"at most {form.format(target)}", value <= target)

    def _add(self, name: str, measured: str, goal: str, met: bool) -> None:  # noqa: FBT001
        self.table.add_row(name, measured, goal, "yes" if met else "NO")
