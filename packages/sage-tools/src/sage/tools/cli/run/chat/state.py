"""What a chat is at: its service, its conversation, its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.tools.cli.run.answer import takes_conversations
from sage.tools.cli.run.chat.conversation import Conversation
from sage.tools.cli.run.loading import ShownService
from sage.tools.cli.terminal.output import write_note


class ChatState:
    """One user, one conversation, one service: what the commands of a chat show and change."""

    def __init__(
        self,
        service: ShownService,
        options: Mapping[str, Any],
        *,
        system: str | None,
        hide_reasoning: bool = False,
        quiet: bool,
    ) -> None:
        self.service = service
        self.hide_reasoning = hide_reasoning
        self.quiet = quiet
        self.conversation = Conversation(system)
        self.options: dict[str, Any] = dict(options)
        self.answers = 0
        self.over = False
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
            template = self.options.get("chat_template")
            messages = self.conversation.messages
            return self.service.count_tokens([messages], chat_template=template)[0]
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
