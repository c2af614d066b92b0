"""A conversation, in memory and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.requests.inputs import parse_prompts
from sage.tools.cli.errors import CommandError

Message = Mapping[str, Any]


class Conversation:
    """What was said so far, after a system prompt that may be empty."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """All of it, the system prompt first."""
        before = [{"role": "system", "content": self.system}] if self.system else []
        return [*before, *self.turns]

    def asking(self, text: str) -> list[Message]:
        """All of it, with one more question at the end that is not kept yet."""
        return [*self.messages, {"role": "user", "content": text}]

    def add(self, question: str, answer: str) -> None:
        """Keep a question and its answer."""
        self.turns += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]

    def replace(self, messages: Sequence[Message]) -> None:
        """Take other messages in place of all that is kept."""
        first, *others = messages
        is_system = first["role"] == "system" and isinstance(first["content"], str)
        self.system = first["content"] if is_system else None
        self.turns = list(others if is_system else messages)


def write_conversation(path: Path, model_id: str, messages: Sequence[Message]) -> None:
    """Write a file that `read_conversation` takes; raises CommandError and OSError.

    A file that is there is only replaced if it is a conversation.
    """
    if path.exists():
        read_conversation(path)
    data = {"model_id": model_id, "messages": list(messages)}
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_conversation(path: Path) -> list[Message]:
    """Return a file's messages: those that were saved, or a plain list; raises CommandError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        messages: list[Message] = data["messages"] if isinstance(data, dict) else data
        parse_prompts([{"messages": messages}])
    except (LookupError, TypeError, ValueError):
        raise CommandError(
            f"{path} is no conversation",
            'One is a file of JSON: {"messages": [{"role": "user", "content": "..."}, ...]}.',
        ) from None
    return messages
