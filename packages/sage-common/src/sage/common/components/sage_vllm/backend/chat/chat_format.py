"""ChatFormat: how conversations become prompts by the chat templates of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sage.common.components.sage_vllm.backend.vllm_types import (
    ModelConfig,
    Renderer,
    VLLMClasses,
)
from sage.common.components.sage_vllm.engine_contract import Message
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.core.errors import nearest

THINKING_VARIABLES = ("enable_thinking", "thinking")
"""What templates call the variable that turns thinking on or off."""

_OURS = {
    "chat_template": "chat_template",
    "continue_final_message": "continue_final_message",
    "messages": "a conversation as the prompt",
    "tools": "tools",
}
"""Variables of templates, and what sets each of them here."""
_OF_JINJA = {
    "bos_token", "eos_token", "pad_token", "unk_token", "raise_exception", "strftime_now",
    "namespace", "range", "dict", "add_generation_prompt",
}  # fmt: skip
"""What a template uses beside its variables."""
_MARKS = ("{{", "{%")


class ChatFormat:
    """Says how vLLM is to make a text of a conversation, by the options of a call.

    Args:
        model_id: named in errors.
        renderer, model_config: vLLM's, of the model.
        vllm: the classes of vLLM that requests are made with.
    """

    def __init__(
        self, model_id: str, renderer: Renderer, model_config: ModelConfig, vllm: VLLMClasses
    ) -> None:
        self._model_id = model_id
        self._renderer = renderer
        self._model_config = model_config
        self._vllm = vllm
        self._is_hf = isinstance(renderer, vllm.HfRenderer)
        self._defaults: dict[bool, str | None] = {}
        self._plain = vllm.ChatParams(
            chat_template_kwargs={"add_generation_prompt": True, "tokenize": False}
        )

    def names(self) -> tuple[str, ...]:
        """Return the names of the model's chat templates; see EngineInfo."""
        if not self._is_hf:
            return ("default",)  # a tokenizer that knows how its own model converses
        if named := self._named():
            return tuple(sorted(named))
        return () if self.default(has_tools=False) is None else ("default",)

    def marks(self) -> tuple[str, ...] | None:
        """Return the added tokens that the templates write; see EngineInfo."""
        if not self.names():
            return None
        tokenizer = self._renderer.get_tokenizer()
        added: dict[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
        written = str(self._named() or (self._is_hf and self.default(has_tools=False)) or "")
        return tuple(sorted(token for token in added if token in written))

    def default(self, *, has_tools: bool) -> str | None:
        """Return the template that is used unless another is named; None if there is none."""
        if has_tools not in self._defaults:
            self._defaults[has_tools] = self._vllm.resolve_chat_template(
                self._renderer.get_tokenizer(),
                None,
                [{}] if has_tools else None,
                model_config=self._model_config,
            )
        return self._defaults[has_tools]

    def variables(self, template: str) -> frozenset[str]:
        """Return the names of a template's variables that a caller may set."""
        return variables_of(template) - _OF_JINJA - _OURS.keys()

    def text(self, messages: Sequence[Message], options: Mapping[str, Any]) -> str:
        """Return the text that the model sees of a conversation; raises as ``params`` does."""
        _, prompt = self._renderer.render_messages(list(messages), self.params(options))
        return str(prompt["prompt"])

    def without_thinking(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return options by which the model answers at once, where its template can say so."""
        known = self._variables_of(self._template(options.get("chat_template")), has_tools=False)
        can_say = known is not None and not known.isdisjoint(THINKING_VARIABLES)
        return {**options, "thinking": False} if can_say else options

    def params(self, options: Mapping[str, Any]) -> Any:
        """Return vLLM's ChatParams for the options of a call; raises InvalidRequestError."""
        name, tools = options.get("chat_template"), options.get("tools")
        thinking, given = options.get("thinking"), options.get("template_options")
        continues = options.get("continue_final_message")
        if name is None and not (tools or given or continues) and thinking is None:
            self._check_has_default()
            return self._plain
        template = self._template(name)
        variables: dict[str, Any] = {**self._plain.chat_template_kwargs}
        if continues:
            variables |= {"add_generation_prompt": False, "continue_final_message": True}
        if tools:
            self._check_takes_tools(template)
            variables["tools"] = tools
        if given:
            self._check_variables(given, template, has_tools=bool(tools))
            variables |= given
        if thinking is not None:
            self._set_thinking(thinking, variables, template, has_tools=bool(tools))
        return replace(self._plain, chat_template=template, chat_template_kwargs=variables)

    def _named(self) -> Mapping[str, str]:
        templates: Any = getattr(self._renderer.get_tokenizer(), "chat_template", None)
        return templates if isinstance(templates, dict) else {}

    def _check_has_default(self) -> None:
        if (named := self._named()) and "default" not in named:
            raise InvalidRequestError(
                self._model_id,
                f"{self._model_id!r} has several chat templates and no default: "
                f"{', '.join(sorted(named))}",
                hint="choose one of them with",
                option="sampling.chat_template",
            )

    def _template(self, name: str | None) -> str | None:
        """Return the template of this name, or that is this text; None for the default one."""
        named = self._named()
        if name is None:  # with tools, vLLM takes a template that is named for them
            self._check_has_default()
            return None
        if name == "default":
            return named.get("default")
        if name in named:
            return named[name]
        if any(mark in str(name) for mark in _MARKS):
            return name
        raise InvalidRequestError(
            self._model_id,
            f"{self._model_id!r} has no chat template {name!r}",
            hint=nearest(str(name), list(named or self.names())),
        )

    def _variables_of(self, template: str | None, *, has_tools: bool) -> frozenset[str] | None:
        """Return a template's variables; None for a model that has no template to look at."""
        text = template or (self.default(has_tools=has_tools) if self._is_hf else None)
        return None if text is None else self.variables(text)

    def _check_takes_tools(self, template: str | None) -> None:
        text = template or (self.default(has_tools=True) if self._is_hf else None)
        if text is not None and "tools" not in variables_of(text):
            raise InvalidRequestError(
                self._model_id,
                f"the chat template of {self._model_id!r} has no place for tools",
                hint="take a model that was trained to call tools, or pass a chat_template that "
                "has one",
            )

    def _check_variables(
        self, given: Mapping[str, Any], template: str | None, *, has_tools: bool
    ) -> None:
        known = self._variables_of(template, has_tools=has_tools)
        for name in given:
            if name in _OURS:
                problem = f"template_options cannot set {name!r}"
                raise InvalidRequestError(self._model_id, problem, hint=f"pass {_OURS[name]}")
            if known is not None and name not in known | {"add_generation_prompt"}:
                raise InvalidRequestError(
                    self._model_id,
                    f"the chat template of {self._model_id!r} has no variable {name!r}",
                    hint=nearest(name, sorted(known)),
                )

    def _set_thinking(
        self,
        thinking: Any,
        variables: dict[str, Any],
        template: str | None,
        *,
        has_tools: bool,
    ) -> None:
        """Set the variable that turns thinking on or off; a budget needs none."""
        known = self._variables_of(template, has_tools=has_tools)
        name = next((name for name in THINKING_VARIABLES if known and name in known), None)
        wanted = thinking is not False
        if name is None:
            if isinstance(thinking, bool):
                raise InvalidRequestError(
                    self._model_id,
                    f"thinking cannot be turned {'on' if wanted else 'off'} for "
                    f"{self._model_id!r}: its chat template has no variable for that",
                    hint=f"those that it has: {', '.join(sorted(known or ())) or '(none)'}",
                )
            return
        if variables.setdefault(name, wanted) != wanted:
            problem = f"thinking={thinking!r} and template_options[{name!r}] contradict each other"
            raise InvalidRequestError(self._model_id, problem, hint="give one of them")


def variables_of(template: str) -> frozenset[str]:
    """Return all names that a template uses and does not set itself."""
    from vllm.renderers.hf import _cached_resolve_chat_template_kwargs

    return frozenset(_cached_resolve_chat_template_kwargs(template))
