"""What the commands print: data to stdout, everything else to stderr, nothing that can do harm.

Ids, tags and messages may come from a remote machine, so whatever a terminal would obey instead of
show is printed as an escape.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import suppress
from typing import Any, TextIO

from sage.common.core.errors import SageError
from sage.tools.cli.terminal.flags import hint_in_flags

_DEBUG_HINT = "Run it again with SAGE_DEBUG=1 for the details, and report them."


def escape(text: str) -> str:
    """Make control characters, and all else that does not print, visible."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def is_rich(stream: TextIO) -> bool:
    """Whether colour and animation are welcome on a stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write_data(text: str) -> None:
    """Print a line of data."""
    print(escape(text))


def write_json(data: Any) -> None:
    """Print data as JSON."""
    print(json.dumps(data, indent=2))


def write_note(text: str, *, quiet: bool = False) -> None:
    """Tell the user something that is not data."""
    if not quiet:
        print(escape(text), file=sys.stderr)


def write_error(problem: str, hint: str, *, usage: bool = False) -> None:
    """Print what went wrong and what to do."""
    red, plain = ("\x1b[31m", "\x1b[0m") if is_rich(sys.stderr) else ("", "")
    print(f"{red}{'Usage error' if usage else 'Error'}:{plain} {escape(problem)}", file=sys.stderr)
    print(f"Hint: {escape(hint)}", file=sys.stderr)


def error_lines(error: Exception) -> tuple[str, str]:
    """Return the problem and the way out; print the traceback where SAGE_DEBUG is set."""
    if os.environ.get("SAGE_DEBUG"):
        with suppress(OSError):  # nobody may be there to read it
            print(_without_token("".join(traceback.format_exception(error))), file=sys.stderr)
    if isinstance(error, SageError):
        hint = hint_in_flags(error) or _DEBUG_HINT
        # The name of a file at its beginning, such as `out.jsonl`, stays what it is.
        is_word = hint.partition(" ")[0].rstrip(":,;.").isalpha()
        return error.problem, f"{hint[:1].upper()}{hint[1:]}" if is_word else hint
    if hasattr(error, "format_message"):
        return _usage_text(error), _help_hint(error)
    if isinstance(error, OSError | ValueError | LookupError | NotImplementedError) and str(error):
        return str(error), _DEBUG_HINT
    return f"Unexpected {type(error).__name__}: {error}", _DEBUG_HINT


def _usage_text(error: Any) -> str:
    # Raised by a command and not for one of its options, it begins "Invalid value:" all the same.
    is_ours = getattr(error, "param", error) is None and error.param_hint is None
    return str(error.message if is_ours else error.format_message())


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "sage"
    return f"Run `{command} --help`."


def _without_token(text: str) -> str:
    hub = sys.modules.get("huggingface_hub")  # not loaded, it cannot have put a token anywhere
    for token in (os.environ.get("HF_TOKEN"), hub.get_token() if hub is not None else None):
        text = text.replace(token, "***") if token else text
    return text
