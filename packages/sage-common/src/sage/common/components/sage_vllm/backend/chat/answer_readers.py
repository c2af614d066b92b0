"""AnswerReaders: what reads the answers of a model, by vLLM's parsers for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from sage.common.components.sage_vllm.backend.chat.answer_reader import AnswerReader
from sage.common.components.sage_vllm.backend.chat.chat_format import THINKING_VARIABLES, ChatFormat
from sage.common.components.sage_vllm.backend.chat.parser_choice import tool_parser_of
from sage.common.components.sage_vllm.backend.vllm_types import Renderer, VLLMClasses, VllmConfig
from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.requests.chat.chat_options import is_conversation
from sage.common.components.sage_vllm.requests.chat.messages import calls_in


class AnswerReaders:
    """Makes a reader for each request whose answer is more than its text.

    Args:
        model_id: named in errors.
        config: vLLM's, which names what reads the model's thinking.
        renderer: vLLM's, of the model.
        tool_parser: vLLM's name of what reads its calls of tools; None looks at its template.
        chat_format: the model's templates.
        vllm: the classes of vLLM that requests are made with.
    """

    def __init__(
        self,
        model_id: str,
        config: VllmConfig,
        renderer: Renderer,
        *,
        tool_parser: str | None,
        chat_format: ChatFormat,
        vllm: VLLMClasses,
    ) -> None:
        self.model_id = model_id
        self.thinks = bool(config.structured_outputs_config.reasoning_parser)
        self._reasoning_parser: str = config.structured_outputs_config.reasoning_parser
        self._budgets = config.reasoning_config is not None
        self._model_config = config.model_config
        self._renderer = renderer
        self._tool_parser = tool_parser
        self._format = chat_format
        self._vllm = vllm
        self._parsers: dict[tuple[str, str, bool], Any] = {}

    def thinking_budget(self, options: Mapping[str, Any]) -> int | None:
        """Return how many tokens of thinking a call allows, None where it says nothing of that.

        Raises InvalidRequestError for a model that is not known to think.
        """
        budget = options.get("thinking")
        if budget is None or isinstance(budget, bool):
            return None
        if not self._budgets:
            raise InvalidRequestError(
                self.model_id,
                f"thinking={budget} is a budget, and {self.model_id!r} is not known to think",
                hint="if it does, name one of vLLM's reasoning parsers in",
                option="engine.reasoning_parser",
            )
        return int(budget)

    def prepare(
        self,
        prompt: Prompt,
        options: Mapping[str, Any],
        rendered: Mapping[str, Any],
        params: Any,
        arguments: dict[str, Any],
    ) -> AnswerReader | None:
        """Return the reader for the answer to a prompt; None if the answer is its text alone.

        What vLLM has to know of it is put into its ``params`` and ``arguments``. Raises
        InvalidRequestError.
        """
        tools, choice = options.get("tools"), options.get("tool_choice") or "auto"
        if not self.thinks and (not tools or choice == "none"):
            return None
        structure = params.structured_outputs
        if not is_conversation(prompt):
            if structure is not None:  # a text has no thinking before it
                arguments["reasoning"] = (True, {})
            return None
        chat = self._format.params(options)
        variables, token_ids = chat.chat_template_kwargs, list(rendered["prompt_token_ids"])
        tools = None if choice == "none" else tools
        name, forced = "", bool(tools) and (choice != "auto" or structure is not None)
        if tools:
            name = self._name_of_tool_parser(chat.chat_template)
        request = self._request(tools, choice, structure)
        parser_class = self._parser_class(self._reasoning_parser, name, forced=forced)
        parser = self._parser(parser_class, request, variables)
        request = parser.adjust_request(request)
        if tools and structure is not None and request.structured_outputs.structural_tag is None:
            raise InvalidRequestError(
                self.model_id,
                f"a model whose calls {name!r} reads cannot both be bound to a structure and be "
                f"free to call tools",
                hint="ask for the calls first, and for the text in a turn without tools",
            )
        _bound_blanks(request.structured_outputs)
        ended = request.resolve_reasoning_ended(parser, token_ids)
        off = any(variables.get(each) is False for each in THINKING_VARIABLES)
        if self.thinks and ended and (off or not parser.is_reasoning_end([])):
            # The prompt says so, or has the thinking already: the answer is what follows.
            parser_class = self._parser_class("", name, forced=forced)
        params.structured_outputs = request.structured_outputs
        if parser_class is not None:
            params.skip_special_tokens = request.skip_special_tokens
        if self.thinks and request.structured_outputs is not None:
            arguments["reasoning"] = (ended, {"chat_template_kwargs": dict(variables)})
        return AnswerReader(
            self.model_id,
            None
            if parser_class is None
            else partial(self._parser, parser_class, request, variables),
            request,
            token_ids,
            thinks=self.thinks,
            calls_before=calls_in(prompt),
            parsed_by=[None if parser_class is None else parser_class.__name__, dict(variables)],
        )

    def _parser(self, parser_class: Any, request: Any, variables: Mapping[str, Any]) -> Any:
        try:
            return parser_class(
                self._renderer.get_tokenizer(),
                request.tools,
                chat_template_kwargs=dict(variables),
                model_config=self._model_config,
            )
        except Exception as error:  # of a tokenizer that has none of the parser's marks
            problem = f"vLLM's parser does not fit {self.model_id!r}: {error}"
            raise InvalidRequestError(
                self.model_id,
                problem,
                hint="name another one in",
                option="engine.tool_call_parser",
            ) from error

    def _parser_class(self, reasoning: str, tools: str, *, forced: bool) -> Any:
        """Return vLLM's class for this combination; None for neither.

        With ``forced``, calls have arguments that follow the schemas, as if all tools were strict,
        and a structure binds the text that is no call.
        """
        key = (reasoning, tools, forced)
        if key not in self._parsers:
            from vllm.parser import ParserManager

            self._parsers[key] = ParserManager.get_parser(
                tool_parser_name=tools or None,
                reasoning_parser_name=reasoning or None,
                enable_auto_tools=bool(tools),
                model_name=self.model_id,
                tool_strict_level="parameter" if forced else "auto",
            )
        return self._parsers[key]

    def _request(self, tools: Any, choice: str, structure: Any) -> Any:
        """Return a request of vLLM's server with what its parsers look at."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        wanted: dict[str, Any] = {"messages": [], "model": self.model_id}
        if structure is not None:
            wanted["structured_outputs"] = structure
        if tools:
            if structure is not None and choice != "auto":
                raise InvalidRequestError(
                    self.model_id,
                    f"tool_choice {choice!r} and a structure of the text exclude each other",
                    hint="ask for the calls first, and for the text in the next turn",
                )
            named = {"type": "function", "function": {"name": choice}}
            is_name = choice not in ("auto", "required")
            wanted |= {"tools": tools, "tool_choice": named if is_name else choice}
            wanted["parallel_tool_calls"] = not is_name  # of one tool, one call
        try:
            return ChatCompletionRequest(**wanted)
        except self._vllm.refusals as error:
            problem = f"vLLM refuses the tools: {error}"
            raise InvalidRequestError(self.model_id, problem) from error

    def _name_of_tool_parser(self, template: str | None) -> str:
        name = self._tool_parser
        if name is None:
            name = tool_parser_of(template or self._format.default(has_tools=True) or "")
        if name is None:
            raise InvalidRequestError(
                self.model_id,
                f"nothing says how {self.model_id!r} writes its calls of tools",
                hint="name one of vLLM's tool call parsers in",
                option="engine.tool_call_parser",
            )
        return name


def _bound_blanks(structure: Any) -> None:
    """Allow one blank at a time in calls: a small model may add more until its tokens run out."""
    if structure is None or structure.structural_tag is None:
        return
    tag = json.loads(structure.structural_tag)
    formats = [tag]
    while formats:
        each = formats.pop()
        if isinstance(each, dict):
            if each.get("type") == "json_schema":
                each["max_whitespace_cnt"] = 1
            else:
                formats += each.values()
        elif isinstance(each, list):
            formats += each
    structure.structural_tag = json.dumps(tag)
