"""A service for a terminal: it shows that it loads, and what it logs are notes."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.errors import EngineStartError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.core.errors import Setting
from sage.tools.cli.errors import CommandError
from sage.tools.cli.terminal.download_display import clip
from sage.tools.cli.terminal.flags import in_flags
from sage.tools.cli.terminal.output import escape, is_rich, write_note

_REDRAW_EVERY = 0.1


class ShownService(VLLMService):
    """A VLLMService that says on standard error that it loads, unless it is to be quiet."""

    def __init__(self, config: VLLMServiceConfig, *, quiet: bool = False, **others: Any) -> None:
        super().__init__(config, **others)
        self._quiet = quiet

    def setup(self) -> None:
        """Load the models; raises as VLLMService does."""
        if not os.environ.get("SAGE_DEBUG"):
            _log_as_notes()
        config = self.config
        model_id = config.model_id or config.embedding_model_id or config.scoring_model_id
        try:
            with working_display(f"Loading {model_id}", quiet=self._quiet):
                super().setup()
        except EngineStartError as error:
            raise CommandError(
                error.problem, "`sage llm doctor` checks what models need."
            ) from error


@contextmanager
def working_display(what: str, *, quiet: bool) -> Iterator[None]:
    """Show seconds beside `what` on a terminal, say it in a line elsewhere."""
    if quiet or not is_rich(sys.stderr):
        write_note(f"{what} ...", quiet=quiet)
        yield
        return
    over = threading.Event()
    drawing = threading.Thread(target=_draw, args=(escape(what), over), daemon=True)
    drawing.start()
    try:
        yield
    finally:
        over.set()
        drawing.join()


def _draw(what: str, over: threading.Event) -> None:
    began = time.monotonic()
    stream = sys.stderr
    for mark in itertools.cycle("|/-\\"):
        width = (os.get_terminal_size(stream.fileno()).columns or 80) - 1
        line = clip(f"{mark} {what} {time.monotonic() - began:.0f} s", width)
        stream.write(f"\r{line}\x1b[K")
        stream.flush()
        if over.wait(_REDRAW_EVERY):
            break
    stream.write("\r\x1b[K")
    stream.flush()


class Notes(logging.Handler):
    """Says what the service logs, options as flags, without the traceback that may come with it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        args = record.args if isinstance(record.args, tuple) else ()
        typed = tuple(
            (in_flags(each) or each) if isinstance(each, Setting) else each for each in args
        )
        write_note(str(record.msg) % typed if typed else record.getMessage())


def _log_as_notes() -> None:
    log = logging.getLogger("sage")
    log.handlers = [Notes(logging.WARNING)]
    log.propagate = False
