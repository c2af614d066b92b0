"""refuse_unused_cleanup(): finds the clean-up that nobody would ever call."""

from __future__ import annotations

from collections.abc import Sequence


def refuse_unused_cleanup(cls: type, base: type, names: Sequence[str]) -> None:
    """Raise TypeError if a class cleans up in a method that has another name than ``cleanup``.

    It would never run, and what it was to flush would be missing without a word. A class that has
    a ``cleanup`` too may have such a method for itself.
    """
    if cls.cleanup is not base.cleanup:  # type: ignore[attr-defined]  # both kinds of base have it
        return
    for name in names:
        if callable(getattr(cls, name, None)):
            raise TypeError(
                f"{cls.__name__}.{name}() would never be called; name it cleanup(), which runs "
                f"once after the last record"
            )
