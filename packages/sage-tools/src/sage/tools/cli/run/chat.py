"""A chat in a terminal with a model in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.tools.cli.errors import CommandError, Interrupted
from sage.tools.cli.run.answer import ShownAnswer, takes_conversations, write_why_cut_off
from sage.tools.cli.run.chat_commands import COMMANDS, run_command
from sage.tools.cli.run.chat_input import line_reader
from sage.tools.cli.run.conversation import Conversation
from sage.tools.cli.run.loading import ShownService
from sage.tools.cli.terminal.interrupts import Interrupts
from sage.tools.cli.terminal.output import error_lines, write_error, write_note


def chat(config: VLLMServiceConfig, *, system: str | None, quiet: bool) -> None:
    """Load the model and talk with it until the user leaves."""
    try:
        # Options are the chat's own: one that is taken back must not come from the service.
        service = ShownService(replace(config, sampling={}), quiet=quiet)
        service.open()
    except KeyboardInterrupt:
        raise Interrupted("The model was still loading.") from None
    with service, Interrupts(signal.SIGINT, holds=False) as interrupts:
        Chat(service, interrupts, config.sampling, system=system, quiet=quiet).run()


class Chat:
    """One user, one conversation, one service; no error ends it."""

    def __init__(
        self,
        service: ShownService,
        interrupts: Interrupts,
        options: Mapping[str, Any],
        *,
        system: str | None,
        quiet: bool,
    ) -> None:
        self.service = service
        self.interrupts = interrupts
        self.quiet = quiet
        self.conversation = Conversation(system)
        self.options: dict[str, Any] = dict(options)
        self.answers = 0
        self.over = False
        self._read = line_reader([f"/{name}" for name in COMMANDS])
        self.meet_model()

    @property
    def model_id(self) -> str:
        """The model that answers."""
        return str(self.service.stats()["model_id"])

    @property
    def context(self) -> int:
        """The longest conversation with its answer, in tokens."""
        return int(self.service.stats()["engine"]["max_model_len"])

    @property
    def tokens(self) -> int:
        """The length of the conversation so far."""
        if not (self.converses and self.conversation.turns):
            return 0
        try:
            return self.service.count_tokens([self.conversation.messages])[0]
        except InvalidRequestError:  # it was loaded, or the model changed, and it is too long
            return self.context

    def meet_model(self) -> None:
        """Find out whether the model holds conversations."""
        self.converses = takes_conversations(self.service)
        if not self.converses:
            write_note(
                f"{self.model_id} has no chat template: it completes each text as it is, and "
                f"remembers nothing.",
                quiet=self.quiet,
            )

    def run(self) -> None:
        """Take one message after the other."""
        write_note(f"{self.model_id} is ready. /help shows how; Ctrl-D leaves.", quiet=self.quiet)
        while not self.over:
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
            run_command(self, line)
        elif line.strip():
            self._answer(line.strip())

    def _answer(self, text: str) -> None:
        prompt: Any = self.conversation.asking(text) if self.converses else text
        shown = ShownAnswer()
        try:
            with self.interrupts.allowed(), self.service.stream(prompt, **self.options) as stream:
                result = shown.show(stream)
        except KeyboardInterrupt:
            shown.end_line()
            write_note("(Stopped.)", quiet=self.quiet)
            if shown.text and self.converses:
                self.conversation.add(text, shown.text)
            return
        except InvalidRequestError as error:
            raise self._refusal(error) from error
        except Exception:
            if shown.text:
                shown.end_line()
            raise
        shown.end_line()
        self.answers += 1
        if self.converses:
            self.conversation.add(text, result["text"])
        write_why_cut_off(result, self.context, quiet=self.quiet)
        shown.write_figures(result, quiet=self.quiet)
        sys.stderr.flush()

    def _refusal(self, error: InvalidRequestError) -> CommandError:
        """What to say of a message that the engine did not take."""
        is_too_long = getattr(error.__cause__, "parameter", None) in ("input_tokens", "input_text")
        if not is_too_long and "maximum model length" not in str(error):
            return CommandError(str(error), "/set shows the options, /clear begins anew.")
        return CommandError(
            f"with this message the conversation exceeds the context of {self.model_id}: "
            f"{self.tokens:,} of {self.context:,} tokens were used before it",
            "/clear begins a new conversation; /save FILE keeps this one first.",
        )
