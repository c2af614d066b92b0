"""AnswerReaders: vLLM's parsers, which tell thinking, answer and calls of tools apart."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sage.common.components.sage_vllm.backend.chat.chat_format import THINKING_VARIABLES, ChatFormat
from sage.common.components.sage_vllm.backend.chat.parser_choice import tool_parser_of
from sage.common.components.sage_vllm.backend.vllm_types import Renderer, VLLMClasses, VllmConfig
from sage.common.components.sage_vllm.engine_contract import Prompt, Reasoning, ToolCall
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.requests.chat.chat_options import is_conversation
from sage.common.components.sage_vllm.requests.chat.messages import calls_in

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a generated text consists of; see Completion."""

    text: str
    reasoning: str | None
    reasoning_token_count: int | None
    tool_calls: list[ToolCall] | None


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
        bound = params.structured_outputs is not None
        if not is_conversation(prompt):
            if bound:  # a text has no thinking before it
                arguments["reasoning"] = (True, {})
            return None
        params_of_chat = self._format.params(options)
        reader = self._reader(
            None if choice == "none" else tools,
            choice,
            params_of_chat.chat_template,
            params_of_chat.chat_template_kwargs,
            list(rendered["prompt_token_ids"]),
            params.structured_outputs,
            calls_before=calls_in(prompt),
        )
        params.structured_outputs = reader.request.structured_outputs
        if reader.parser_class is not None:
            params.skip_special_tokens = reader.request.skip_special_tokens
        if self.thinks and params.structured_outputs is not None:
            kwargs = {"chat_template_kwargs": dict(reader.variables)}
            arguments["reasoning"] = (reader.reasoning_ended, kwargs)
        return reader

    def _reader(
        self,
        tools: Any,
        choice: str,
        template: str | None,
        variables: Mapping[str, Any],
        token_ids: list[int],
        structure: Any,
        *,
        calls_before: int,
    ) -> AnswerReader:
        tool_parser = self._name_of_tool_parser(template) if tools else ""
        request = self._request(tools, choice, structure)
        forced = bool(tools) and choice != "auto"
        parser_class = self._parser_class(self._reasoning_parser, tool_parser, forced=forced)
        parser = self._parser(parser_class, request, variables)
        request = parser.adjust_request(request)
        _bound_blanks(request.structured_outputs)
        ended = request.resolve_reasoning_ended(parser, token_ids)
        off = any(variables.get(name) is False for name in THINKING_VARIABLES)
        if self.thinks and ended and (off or not parser.is_reasoning_end([])):
            # The prompt says so, or has the thinking already: the answer is what follows.
            parser_class = self._parser_class("", tool_parser, forced=forced)
        return AnswerReader(
            self,
            parser_class,
            request,
            variables,
            token_ids,
            reasoning_ended=ended,
            calls_before=calls_before,
        )

    def new_parser(self, reader: AnswerReader) -> Any:
        """Return a parser for one answer: they keep what they have read."""
        return self._parser(reader.parser_class, reader.request, reader.variables)

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

        Calls that are forced have arguments that follow the schemas, as if all tools were strict.
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


class AnswerReader:
    """Reads the answers to one prompt: one if it is streamed, else ``n`` of them."""

    def __init__(
        self,
        readers: AnswerReaders,
        parser_class: Any,
        request: Any,
        variables: Mapping[str, Any],
        token_ids: list[int],
        *,
        reasoning_ended: bool | None,
        calls_before: int,
    ) -> None:
        self._readers = readers
        self._calls_before = calls_before
        self.parser_class = parser_class
        self.request = request
        self.variables = variables
        self.token_ids = token_ids
        self.reasoning_ended = reasoning_ended
        self._thinks = readers.thinks
        self._has_tools = bool(request.tools)

    def read(self, text: str, token_ids: Sequence[int]) -> Answer:
        """Take a whole answer apart; raises InvalidRequestError for one that cannot be."""
        none = 0 if self._thinks else None
        calls: list[ToolCall] | None = [] if self._has_tools else None
        if self.parser_class is None or not text:
            return Answer(text, None, none, calls)
        parser = self._readers.new_parser(self)
        try:
            parser.set_prompt_token_ids(self.token_ids)
            reasoning, content, found = parser.parse(
                text, self.request, enable_auto_tools=True, model_output_token_ids=token_ids
            )
            count = self._count(parser, token_ids) if reasoning else none
        except Exception as error:  # whatever it is, it must not end the engine
            problem = f"vLLM's parser cannot read the answer {text[:200]!r}: {error}"
            raise InvalidRequestError(self._readers.model_id, problem) from error
        if self._has_tools:
            calls = [
                _tool_call(each, number)
                for number, each in enumerate(found or (), self._calls_before)
            ]
        return Answer(content or "", reasoning or None, count, calls)

    def stream(self) -> AnswerStream:
        """Return what takes an answer apart as it is generated."""
        parser = None if self.parser_class is None else self._readers.new_parser(self)
        return AnswerStream(parser, self.request, self.token_ids)

    def _count(self, parser: Any, token_ids: Sequence[int]) -> int:
        """Count the tokens of the thinking, which the prompt or the parser may have begun."""
        start = getattr(parser.reasoning_parser, "start_token_id", None)
        begun = start is not None and start not in token_ids
        return int(parser.count_reasoning_tokens([start, *token_ids] if begun else token_ids))


class AnswerStream:
    """Takes one answer apart, piece by piece."""

    def __init__(self, parser: Any, request: Any, prompt_token_ids: list[int]) -> None:
        self._parser = parser
        self._request = request
        self._prompt_token_ids = prompt_token_ids
        self._tokens = 0

    def feed(self, text: str, token_ids: Sequence[int], *, finished: bool) -> list[str]:
        """Return the pieces, thinking among them, that come with more text.

        ``token_ids`` are all of the answer so far.
        """
        if self._parser is None:
            return [text] if text else []
        new, self._tokens = list(token_ids[self._tokens :]), len(token_ids)
        try:
            delta = self._parser.parse_delta(
                text, new, self._request, self._prompt_token_ids, finished=finished
            )
        except Exception:
            logger.exception("vLLM's parser cannot read a stream, which goes on as it is")
            self._parser = None
            return [text] if text else []
        if delta is None:
            return []
        pieces = [Reasoning(delta.reasoning or ""), delta.content or ""]
        return [piece for piece in pieces if piece]


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


def _tool_call(call: Any, number: int) -> ToolCall:
    """Return a call of vLLM's as ours.

    vLLM names most of them at random. Here the same answer has the same names, of nine letters and
    digits, as some templates ask for; a name that the model itself gives stays.
    """
    arguments = call.arguments
    own = call.id if str(call.id or "").startswith("functions.") else None
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        read = None
    return ToolCall(
        id=own or f"call{number:05}",
        name=call.name,
        arguments=read if isinstance(read, dict) else arguments,
    )
