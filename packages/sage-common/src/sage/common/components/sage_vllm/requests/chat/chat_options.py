"""The options that are for conversations alone, and the forms that they are brought into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.requests.chat.tools import tool_schemas
from sage.common.components.sage_vllm.requests.chat.typed_schema import typed_schema
from sage.common.core.errors import nearest

TEMPLATE_OPTIONS_ALIAS = "chat_template_kwargs"
"""What vLLM's server calls ``template_options``."""

CHAT_OPTIONS = frozenset(
    {
        "continue_final_message",
        "template_options",
        TEMPLATE_OPTIONS_ALIAS,
        "thinking",
        "tool_choice",
        "tools",
    }
)
"""``template_options`` (a dict of the template's variables), ``thinking`` (whether the model thinks
before it answers, or the most tokens of it), ``continue_final_message`` (True: the answer goes on
where the last message ends), ``tools`` (functions, or their schemas) and ``tool_choice``."""

_CHOICES = ("auto", "none", "required")


def in_our_forms(options: dict[str, Any]) -> None:
    """Bring checked options into the forms that engines take, in place; raises InvalidOptionError.

    Functions become schemas, a class a TypedSchema, and an alias the option that it stands for.
    """
    if TEMPLATE_OPTIONS_ALIAS in options:
        given = options.pop(TEMPLATE_OPTIONS_ALIAS)
        if options.get("template_options") is not None:
            problem = "template_options and its alias chat_template_kwargs are both given"
            raise InvalidOptionError(
                TEMPLATE_OPTIONS_ALIAS, given, problem, hint="give one of them"
            )
        options["template_options"] = given
    if (schema := options.get("json_schema")) is not None:
        options["json_schema"] = typed_schema(schema)
    if (tools := options.get("tools")) is not None:
        options["tools"] = tool_schemas(tools)
    if (choice := options.get("tool_choice")) is not None:
        options["tool_choice"] = _choice(choice, options.get("tools") or [])


def for_prompt(
    prompt: Prompt, given: Mapping[str, Any], options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the options that hold for a prompt: for a text, none of those for conversations.

    Those that are somebody's defaults are left out; raises InvalidOptionError for one that is in
    ``given``.
    """
    if CHAT_OPTIONS.isdisjoint(options) or is_conversation(prompt):
        return options
    if (name := _of_conversations(given)) is not None:
        problem = f"{name} is for conversations, and this prompt is none"
        hint = "pass a list of {'role', 'content'}"
        raise InvalidOptionError(name, given[name], problem, hint=hint)
    return {name: value for name, value in options.items() if name not in CHAT_OPTIONS}


def are_of_conversations(options: Mapping[str, Any]) -> bool:
    """Whether options ask for what only conversations have."""
    return _of_conversations(options) is not None


def _of_conversations(options: Mapping[str, Any]) -> str | None:
    asked = (name for name in CHAT_OPTIONS & options.keys() if options[name] not in (None, False))
    return next(asked, None)


def is_conversation(prompt: Prompt) -> bool:
    """Whether a prompt goes through a chat template: neither a text nor tokens."""
    return not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)


def _choice(choice: Any, tools: list[dict[str, Any]]) -> str:
    """Return a choice as ``"auto"``, ``"none"``, ``"required"`` or the name of a tool."""
    if isinstance(choice, Mapping):  # {"name"}, or as OpenAI has it
        function = choice.get("function", choice)
        choice = function.get("name") if isinstance(function, Mapping) else None
    names = [tool["function"]["name"] for tool in tools]
    if choice in ("auto", "none") or choice in names or (choice == "required" and names):
        return str(choice)
    if not names:
        problem = f"tool_choice {choice!r} without tools: there is nothing to choose from"
        raise InvalidOptionError("tool_choice", choice, problem, hint="pass tools= too")
    problem = f"tool_choice {choice!r} is none of the tools"
    raise InvalidOptionError(
        "tool_choice", choice, problem, hint=nearest(str(choice), [*_CHOICES, *names])
    )
