"""What is shown of an error that nobody caught.

Python prints every frame of SAGE's own and the whole chain of causes, a page for a misspelt option.
A mistake that SAGE itself speaks of becomes a sentence, with the line of the program that it is
about; an error of the program's own functions keeps its traceback, without SAGE's frames, and so
does a Ctrl-C. With SAGE_DEBUG all is printed as Python does, and the error as an object is never
changed.

ADR 13 says why this is a hook, and why it is set when the errors are imported.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DEBUG_VARIABLE = "SAGE_DEBUG"


def show_uncaught(root: type[BaseException]) -> None:
    """Have this process show uncaught errors so; ``root`` is the class of SAGE's own.

    A hook of anybody else's stays, and one that is set later takes the place of this one.
    """
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = partial(_show, root)


def _show(
    root: type[BaseException],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    text = None
    if not os.environ.get(DEBUG_VARIABLE) and sys.stderr is not None:
        try:
            text = _text(error, trace, is_ours=isinstance(error, root))
        except Exception:  # noqa: BLE001 - in any doubt as Python shows it
            text = None
    if text is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"{text}\n")


def uncaught_lines(error: BaseException) -> list[str]:
    """Return the lines that are shown of an error of SAGE's own."""
    import traceback  # here and below: every program would have to wait for what few need

    if os.environ.get(DEBUG_VARIABLE):
        return "".join(traceback.format_exception(error)).splitlines()
    return _sentence(error, error.__traceback__).split("\n")


def _sentence(error: BaseException, trace: TracebackType | None) -> str:
    """Return what an error says, after the last line of the program's own that led to it."""
    import traceback

    own = [at for at in _frames(trace) if _is_own(at)]
    where = "{}:{}: ".format(*_place(own[-1])) if own else ""
    said = "".join(traceback.format_exception_only(error)).rstrip()
    said = said.removeprefix(f"{type(error).__module__}.")
    more = f"\n({DEBUG_VARIABLE}=1 shows what caused it)" if error.__cause__ else ""
    return f"{where}{said}{more}"


def _text(error: BaseException, trace: TracebackType | None, *, is_ours: bool) -> str | None:
    """Return what to show; None if Python shows it well."""
    frames = list(_frames(trace))
    if is_ours:
        return _sentence(error, trace)
    if isinstance(error, KeyboardInterrupt):
        return _interrupt(error, trace)
    depth = [place for place, at in enumerate(frames) if _is_sage(at)]
    if not depth or isinstance(error, AttributeError | NameError):  # Python knows the nearest name
        return None
    innermost = frames[-1]
    if depth[-1] == len(frames) - 1 and isinstance(error, Exception):
        # Raised on purpose it is about the program; else the fault is SAGE's, and all is needed.
        return _sentence(error, trace) if _raises(innermost) else None
    has_own = any(map(_is_own, frames[depth[-1] + 1 :]))
    return _without_sage(error, trace, keep=None if has_own else frames[depth[-1]])


def _interrupt(error: KeyboardInterrupt, trace: TracebackType | None) -> str | None:
    """Return where the program was at a Ctrl-C, and what its run says of that.

    asyncio raises one in place of the CancelledError that has come out of its main coroutine.
    """
    cancelled, asyncio = error.__context__, sys.modules.get("asyncio")
    if asyncio is None or not isinstance(cancelled, asyncio.CancelledError):
        cancelled = None
    at_work = trace if cancelled is None else cancelled.__traceback__
    if not any(map(_is_sage, _frames(at_work))):
        return None
    return _without_sage(error, trace, keep=None, in_place_of=cancelled)


def _without_sage(
    error: BaseException,
    trace: TracebackType | None,
    *,
    keep: TracebackType | None,
    in_place_of: BaseException | None = None,
) -> str:
    """Return Python's text without SAGE's frames, but for the one to ``keep``.

    Of an error that is ``in_place_of`` another, that one's notes are shown in place of that one.
    """
    import concurrent.futures
    import traceback

    left_out = _files_of_sage() | {threading.__file__, concurrent.futures._base.__file__}  # noqa: SLF001
    whole = traceback.TracebackException(type(error), error, trace)
    if in_place_of is not None:
        whole.__context__ = None
        whole.__notes__ = getattr(in_place_of, "__notes__", None)
        left_out |= {sys.modules["asyncio.runners"].__file__ or ""}
    kept = _place(keep) if keep is not None else None
    each: traceback.TracebackException | None = whole
    while each is not None:
        each.stack[:] = [
            frame
            for frame in each.stack
            if frame.filename not in left_out or (frame.filename, frame.lineno) == kept
        ]
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "".join(whole.format()).rstrip("\n")


def _frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _place(at: TracebackType) -> tuple[str, int]:
    return at.tb_frame.f_code.co_filename, at.tb_lineno


def _is_sage(at: TracebackType) -> bool:
    return str(at.tb_frame.f_globals.get("__name__", "")).startswith("sage.")


def _is_own(at: TracebackType) -> bool:
    """Whether it is a line of the program's, not of Python's or of what is installed."""
    import sysconfig

    file = _place(at)[0]
    paths = sysconfig.get_paths()
    installed = tuple(f"{paths[name]}{os.sep}" for name in ("stdlib", "platlib", "purelib"))
    return not (_is_sage(at) or file.startswith(installed) or file.startswith("<frozen "))


def _raises(at: TracebackType) -> bool:
    import dis

    return at.tb_frame.f_code.co_code[at.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _files_of_sage() -> set[str]:
    modules = dict(sys.modules).items()
    return {str(module.__file__) for name, module in modules if name.startswith("sage.")}
