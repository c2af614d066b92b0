"""The entry point of `sage`: runs a command and turns whatever happens into an exit code.

0 done, 1 failed, 2 used wrongly, 130 interrupted. Data goes to stdout and all else to stderr; an
error is an `Error:` line and a `Hint:` line, with a traceback only where SAGE_DEBUG is set.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from sage.tools.cli.commands import llm
from sage.tools.cli.errors import Interrupted
from sage.tools.cli.light_command import USAGE_ERROR, LightGroup
from sage.tools.cli.terminal.output import error_lines, write_error

app = typer.Typer(
    name="sage",
    cls=LightGroup,
    help="SAGE: pipelines with a language model inside.",
    rich_markup_mode=None,  # the rich one takes longer to import than everything else to run
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(llm.app, name="llm")

_INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def sage(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """SAGE: pipelines with a language model inside."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("isage-tools"))
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run `sage` and exit."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its warnings would run into our display
    _open_streams()
    code = _flushed(_run())
    if code == _INTERRUPTED or "vllm" in sys.modules:
        # The hub's client cannot be stopped in the middle of a file, and a normal exit would wait
        # for its threads; what they wrote so far is safe where it is. With vLLM, whose services are
        # closed by now, Python would take a while to tidy up what ends with the process anyway.
        os._exit(code)
    sys.exit(code)


def _open_streams() -> None:
    """Have two streams to write to, whatever the terminal's encoding is, or if they are closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # as after >&-
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - to the very end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _run() -> int:
    try:
        result = app(prog_name="sage", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        result = _INTERRUPTED
    except Interrupted as stop:
        return _failed(_INTERRUPTED, "Interrupted.", stop.hint)
    except (BrokenPipeError, SystemExit):  # Typer itself exits for a closed pipe, and only then
        return 0  # as in `sage llm model show | head -1`: the reader has what it wanted
    except USAGE_ERROR as error:
        return _failed(2, *error_lines(error))
    except Exception as error:  # noqa: BLE001 - the last resort: no traceback for a user
        return _failed(1, *error_lines(error))
    if result == _INTERRUPTED:
        return _failed(_INTERRUPTED, "Interrupted.", "Run the same command again.")
    return result if isinstance(result, int) else 0


def _flushed(code: int) -> int:
    """Write out what is still held back; returns the exit code, which that can change."""
    for stream, descriptor in ((sys.__stdout__, 1), (sys.__stderr__, 2)):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)  # Python flushes once more
            if not code and not isinstance(error, BrokenPipeError):
                code = _failed(1, *error_lines(error))
    return code


def _failed(code: int, problem: str, hint: str) -> int:
    with suppress(OSError):  # nobody may be there to read it
        write_error(problem, hint, usage=code == 2)
    return code
