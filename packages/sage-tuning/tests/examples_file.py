"""Examples as the text of a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def as_lines(examples: Sequence[Any]) -> str:
    """Return examples as the text of a file; a string is a line as it is."""
    return "".join(f"{e if isinstance(e, str) else json.dumps(e)}\n" for e in examples)
