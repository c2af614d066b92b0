"""lazy_exports: lets a package offer names from its modules without importing them beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from sage.common.core.old_names import moved_name


def lazy_exports(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` (PEP 562) for a package's ``__init__``.

    A name is imported when it is first used. So a package can have one door for its users, and
    its own modules can import each other through the package without a circle.

    Args:
        package: the ``__name__`` of the package.
        homes: where each public name is defined, ``{"JSONLSource": "sage.libs.io.jsonl_source"}``.

    Example::

        __getattr__, __dir__ = lazy_exports(__name__, {"JSONLSource": "sage.libs.io.jsonl_source"})
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise moved_name(package, name) or AttributeError(
                f"module {package!r} has no attribute {name!r}"
            )
        return getattr(import_module(homes[name]), name)

    return get, lambda: sorted(homes)
