"""A chat in a terminal with a model in this process."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, replace
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.errors import InvalidRequestError, PromptTooLongError
from sage.tools.cli.errors import CommandError, Interrupted
from sage.tools.cli.run.answer import ShownAnswer, write_why_cut_off
from sage.tools.cli.run.chat.commands import COMMANDS, run_command
from sage.tools.cli.run.chat.line_reader import line_reader
from sage.tools.cli.run.chat.state import ChatState
from sage.tools.cli.run.loading import ShownService
from sage.tools.cli.terminal.interrupts import Interrupts
from sage.tools.cli.terminal.output import error_lines, write_error, write_note


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A chat in this terminal, until the user leaves."""

    system: str | None
    hide_reasoning: bool
    quiet: bool

    def run(self, config: VLLMServiceConfig) -> None:
        """Load the model and talk with it."""
        try:
            # Options are the chat's own: one that is taken back must not come from the service.
            service = ShownService(replace(config, sampling={}), quiet=self.quiet)
            service.open()
        except KeyboardInterrupt:
            raise Interrupted("The model was still loading.") from None
        with service, Interrupts(signal.SIGINT, holds=False) as interrupts:
            chat = ChatState(
                service,
                config.sampling,
                system=self.system,
                hide_reasoning=self.hide_reasoning,
                quiet=self.quiet,
            )
            _Loop(chat, interrupts).run()


class _Loop:
    """Takes what the user says, line by line; no error ends it."""

    def __init__(self, chat: ChatState, interrupts: Interrupts) -> None:
        self._chat = chat
        self._interrupts = interrupts
        self._read = line_reader([f"/{name}" for name in COMMANDS])

    def run(self) -> None:
        """Take one message after the other."""
        write_note(
            f"{self._chat.model_id} is ready. /help shows how; Ctrl-D leaves.",
            quiet=self._chat.quiet,
        )
        while not self._chat.over:
            try:
                line = self._read()
            except KeyboardInterrupt:
                continue  # it clears the line
            except EOFError:
                return
            try:
                self._take(line)
            except Exception as error:  # noqa: BLE001 - whatever it is, the chat goes on
                write_error(*error_lines(error))

    def _take(self, line: str) -> None:
        if line.startswith("/"):
            run_command(self._chat, line)
        elif line.strip():
            self._answer(line.strip())

    def _answer(self, text: str) -> None:
        prompt: Any = self._chat.conversation.asking(text) if self._chat.converses else text
        shown = ShownAnswer(hide_reasoning=self._chat.hide_reasoning)
        try:
            with (
                self._interrupts.allowed(),
                self._chat.service.stream(prompt, **self._chat.options) as stream,
            ):
                result = shown.show(stream)
        except KeyboardInterrupt:
            shown.end_line()
            write_note("(Stopped.)", quiet=self._chat.quiet)
            if shown.text and self._chat.converses:
                self._chat.conversation.add(text, shown.text)
            return
        except PromptTooLongError as error:
            raise self._too_long(error) from error
        except InvalidRequestError as error:
            hint = error.hint or "/set shows the options, /clear begins anew."
            raise CommandError(error.problem, hint) from error
        except Exception:
            if shown.text:
                shown.end_line()
            raise
        shown.end_line()
        self._chat.answers += 1
        if self._chat.converses:
            self._chat.conversation.add(text, result["text"])
        write_why_cut_off(result, self._chat.context, quiet=self._chat.quiet)
        shown.write_figures(result, quiet=self._chat.quiet)
        sys.stderr.flush()

    def _too_long(self, error: PromptTooLongError) -> CommandError:
        """Return what to say of a message that the context has no room for."""
        return CommandError(
            f"with this message the conversation exceeds the context of {error.model_id}: "
            f"{self._chat.tokens:,} of {error.max_model_len:,} tokens were used before it",
            "/clear begins a new conversation; /save FILE keeps this one first.",
        )
