"""Text that is no text: strings with half a character, which nothing can be encoded from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.common.components.sage_vllm.errors import InvalidInputError


def check_unicode(value: Any, which: str) -> None:
    """Raise InvalidInputError if a string, in ``value`` or itself, has a lone surrogate.

    JSON with half of an escaped emoji makes one, and so do file names that are not UTF-8.
    """
    if isinstance(value, str):
        if not value.isascii():
            _check_string(value, which)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_unicode(key, which)
            check_unicode(item, which)
    elif isinstance(value, list | tuple):
        for item in value:
            check_unicode(item, which)


def _check_string(text: str, which: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            text,
            f"{which} has half a character, {text[error.start]!r} at position {error.start}",
            hint="text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') makes whole "
            "ones",
        ) from None
