"""Files that are there whole or not at all, and outlive a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Bring a file that is closed, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step, for good; one writer at a time.

    A process that is killed meanwhile leaves a hidden file, which the next one overwrites.
    """
    staged = path.with_name(f".{path.name}.new")
    staged.write_text(text, encoding="utf-8")
    sync_path(staged)
    staged.replace(path)
    sync_path(path.parent)
