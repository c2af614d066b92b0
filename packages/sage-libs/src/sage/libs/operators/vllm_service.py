"""Operators that generate and embed with the vLLM service of their environment."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.requests.chat.chat_options import are_of_conversations
from sage.common.components.sage_vllm.requests.chat.tools import tool_schemas
from sage.common.components.sage_vllm.requests.chat.typed_schema import TypedSchema, typed_schema
from sage.common.components.sage_vllm.requests.inputs import are_token_ids
from sage.common.components.sage_vllm.requests.sampling_options import (
    check_own_options,
    check_sampling_options,
)
from sage.common.core.futures import errors_in_future
from sage.libs.operators.generation_records import (
    ANSWER_KEY,
    DETAILS_KEY,
    GenerationRecords,
)
from sage.libs.operators.prefix_order import PrefixMode, PrefixOrder, check_prefix_order
from sage.libs.operators.prompts import PromptTemplate
from sage.libs.operators.records import RecordForms
from sage.libs.operators.service_operator import ServiceOperator, given
from sage.libs.operators.tool_box import ToolBox
from sage.libs.operators.turns import ToolErrors, TurnRules, Turns


class VLLMServiceGenerator(ServiceOperator):
    """Generates a text for each record, with as many records in flight as the service can use.

    Records and what becomes of them:

    - a string: ``{"prompt": the string, "generated": the text, "generation": {...}}``;
    - a dict: a copy with ``generated`` and ``generation`` added; the prompt, a string or a
      conversation or token ids, is read from ``prompt_key``, or made by ``prompt_template``;
    - ``[original, prompt]``: if ``original`` is a dict, a copy of it with both added, else
      ``[original, text]``;
    - a conversation (a list of ``{"role", "content"}``), or token ids (a list of whole numbers):
      as a string, under ``prompt``.

    A service may be shared by any number of operators, pipelines and threads: all their records
    are batched together. An error of a record goes the way of the operator's ``on_error``.

    Args:
        service_name: the name that the service is registered by.
        timeout: seconds a record may take from its start, waiting for its turn in the engine
            included; then it is aborted and fails. None, no limit, is the default: with hundreds
            of records in flight, how long one takes depends on the machine far more than on the
            record.
        model: which of the service's models generates, by its name in ``models``; None is the
            text model, or the only one. A record's own options may name another.
        prompt_key: where a dict's prompt is, ``"prompt"`` by default.
        prompt_template: makes the prompt of the record's fields, as ``str.format`` does:
            ``"Summarise: {text}"``. The fields are a dict's own, or those of the dict that is a
            pair's original; a prompt that comes by itself is named by ``prompt_key``. A record in
            which such a field is missing, None, empty or blank fails with an error that says
            which; ``{text?}`` is one that may be, and then leaves nothing. Braces that are to stay
            are doubled: ``'Answer as {{"city": ...}}: {text}'``.
        system_prompt: what the model is told before each prompt. Prompts thereby become
            conversations; one that begins with a system message of its own keeps that. ``""``
            makes conversations without a system message. With None, the default, a prompt that
            is a text is continued as it stands, without the chat template: a chat model seldom
            answers it, and the log says so once. ``{"prompt": text}`` says that it is meant. With
            ``tools``, ``thinking`` or another option of conversations, a text is a user's message.
        options_key: where a dict may have options of its own, such as
            ``{"max_tokens": 200}``, which override the operator's; None, the default, reads none.
        json_schema: a JSON schema that the answers keep to, or a pydantic class or a dataclass that
            has one. An object's fields go into the record, in place of fields of the same names;
            other values go to ``output_key``. An answer that was cut off raises
            UnfinishedAnswerError: no half object is emitted.
        merge_fields: False puts the whole object under ``output_key`` instead, of a class as its
            instance.
        validate: is called with each answer, its text or its object, and raises what is wrong with
            it, or returns False; it may be ``async def``. The model is told so and asked again; so
            it is for an answer that the class of ``json_schema`` refuses.
        reasks: how often the model is asked again; what is wrong then is the record's
            InvalidAnswerError.
        tools: functions that the model may call, or their schemas; see the page on tools. By
            default none is run: ``tool_calls`` are in the details.
        run_tools: runs them, and goes on with the conversation until there is an answer. The
            record gains ``messages``, the whole of it; ``tokens_used`` are those of all turns. An
            unknown tool, or arguments that it does not accept, the model is told of once; then they
            are the record's ToolCallError.
        max_turns: generations until the answer; a record that needs more fails with ToolCallError.
        tool_timeout: seconds that a call of a tool may last.
        tool_errors: ``"tell"`` tells the model of a tool's exception, ``"raise"`` makes it the
            record's error.
        output_key: where the text goes, ``"generated"`` by default.
        details_key: where the rest of the service's result goes (``finish_reason``,
            ``tokens_used``, ...), ``"generation"`` by default, and beside an ``output_key`` of
            yours that with ``_details`` behind it; None leaves it out.
        cache: a folder that keeps answers which are determined, at a temperature of 0 or with a
            ``seed``, or a dict of ``folder``, ``max_bytes`` and ``ttl``; overrides the service's.
        deadline: seconds a record may take, after which it goes on with the text that there is,
            and with the ``finish_reason`` ``"deadline"``.
        ordered: False emits each record as soon as it is done.
        max_in_flight: records in flight; None takes the service's capacity.
        retries: how often a record is tried again when the engine, not the record, failed.
        prefix_order: whether prompts that begin alike are generated one after the other, so that
            the engine computes their common stem once: ``"on"``, ``"off"``, or ``"auto"``: on
            where a sample of the prompts has in that order at least a tenth more in common than
            in the order in which they come, in stems of 256 letters or more. Answers go on in
            input order in any case.
        prefix_window_bytes: how much the records may take among which prompts that begin alike
            are looked for. At most 32 times ``max_in_flight`` records are: so far the source is
            read ahead, and half of it is the work that a kill may lose. In any order but
            ``"off"`` so much is also kept, for at most 4 times ``max_in_flight`` records, where
            some are done and wait for an earlier one: others are generated meanwhile.
        **options: the service's options for every record, such as ``max_tokens=64``. They override
            the service's ``sampling``, which overrides the model's own defaults.
    """

    free_arguments = ServiceOperator.free_arguments | {"prefix_order", "prefix_window_bytes"}
    task = "generate"

    def __init__(
        self,
        service_name: str = "vllm_service",
        timeout: float | None = None,
        *,
        model: str | None = None,
        prompt_key: str = "prompt",
        prompt_template: str | None = None,
        system_prompt: str | None = None,
        options_key: str | None = None,
        json_schema: Mapping[str, Any] | type | None = None,
        merge_fields: bool = True,
        validate: Callable[[Any], object] | None = None,
        reasks: int = 1,
        tools: Sequence[Any] | None = None,
        run_tools: bool = False,
        max_turns: int = 8,
        tool_timeout: float = 30.0,
        tool_errors: ToolErrors = "tell",
        output_key: str = ANSWER_KEY,
        details_key: str | None = DETAILS_KEY,
        cache: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        deadline: float | None = None,
        ordered: bool = True,
        max_in_flight: int | None = None,
        retries: int = 0,
        prefix_order: PrefixMode = "auto",
        prefix_window_bytes: int = 64_000_000,
        **options: Any,
    ) -> None:
        super().__init__(
            service_name,
            timeout=timeout,
            ordered=ordered,
            max_in_flight=max_in_flight,
            retries=retries,
        )
        special = given(
            json_schema=json_schema, tools=tools, cache=cache, deadline=deadline, model=model
        )
        self.options = {**options, **special}
        check_sampling_options(self.options, "VLLMServiceGenerator", _PARAMETERS)
        if run_tools and not tools:
            raise ValueError("run_tools=True without tools: pass tools=[a_function, ...]")
        self._rules = TurnRules(
            tools=ToolBox(tools or ()) if run_tools else None,
            max_turns=max_turns,
            tool_timeout=tool_timeout,
            tool_errors=tool_errors,
            validate=validate,
            reasks=reasks,
        )
        if tools is not None:
            self.options["tools"] = tool_schemas(tools)
        if isinstance(json_schema, type):
            self.options["json_schema"] = json_schema = typed_schema(json_schema)
        self._turns: Turns | None = None
        check_prefix_order(prefix_order, prefix_window_bytes)
        self.prefix_order = prefix_order
        self.prefix_window_bytes = prefix_window_bytes
        self._records = GenerationRecords(
            prompt_key=prompt_key,
            prompt_template=prompt_template,
            system_prompt=system_prompt,
            options_key=options_key,
            json_schema=json_schema,
            merge_fields=merge_fields,
            output_key=output_key,
            details_key=details_key,
        )

    def setup(self) -> None:
        """Check the options, and make what leads conversations of several turns."""
        if "model" in self.options or not self._records.have_options:  # they may name each its own
            super().setup()
        rules, schema = self._rules, self.options.get("json_schema")
        if rules.tools or rules.validate or isinstance(schema, TypedSchema):
            self._turns = Turns(self.ctx.name, rules, self._ask)

    def cleanup(self) -> None:
        """End the threads of tools and validators."""
        if self._turns is not None:
            self._turns.close()

    @errors_in_future
    def submit(self, record: Any) -> Future[Any]:
        """Start the generation of one record."""
        prompt, options = self.prompt_and_options(record)
        if isinstance(prompt, str) and are_of_conversations(options):
            prompt = [{"role": "user", "content": prompt}]
        if self._turns is not None:
            return self._turns.start(prompt, options)
        if are_token_ids(prompt):
            prompt = {"prompt_token_ids": prompt}
        elif not isinstance(prompt, str | Mapping):  # a list of texts would be several prompts
            prompt = {"messages": prompt}
        return self._ask(prompt, options)

    def _ask(self, prompt: Any, options: Mapping[str, Any]) -> Future[list[dict[str, Any]]]:
        return self.call_service_async(self.service_name, prompt, method="generate", **options)

    def start_order(self) -> PrefixOrder | None:
        """Return what brings prompts that begin alike together."""
        if self.prefix_order == "off":
            return None
        return PrefixOrder(self.prefix_order, self.prefix_window_bytes, self.prompt_and_options)

    def complete(self, record: Any, result: list[dict[str, Any]]) -> Any:
        """Return the record with its text, or with the fields of its JSON."""
        return self._records.answered(record, result[0])

    def prompt_and_options(self, record: Any) -> tuple[Any, Mapping[str, Any]]:
        """Return what a record is answered to, and how; raises ValueError.

        For operators that take records of other forms.
        """
        prompt, options = self._records.prompt(record), self.options
        if own := self._records.options(record):
            check_own_options(own, "the record's options")
            check_sampling_options(own, "the record's options")
            options = {**options, **own}
        return prompt, options


class VLLMEmbeddingOperator(ServiceOperator):
    """Embeds a text of each record; records as for VLLMServiceGenerator, without conversations.

    ``VLLMServiceEmbedder`` is another name of this class.

    A string becomes ``{"text": the string, "embedding": the vector}``; a dict comes out as a copy
    with its vector, a list of floats. A list of texts becomes a list of vectors.

    Args:
        service_name: the name that the service is registered by.
        timeout: seconds a record may take, as for VLLMServiceGenerator; None is no limit.
        text_key: where a dict's text, or its list of texts, is.
        text_template: makes the text of the record's fields: ``"query: {text}"``. It is filled in
            as VLLMServiceGenerator's ``prompt_template``.
        model: which of the service's models embeds, by its name in ``models``; None is the
            embedding model, or the only one.
        output_key: where the vector goes, in place of a field of the same name.
        normalize: whether vectors have the length 1.
        dimensions: shortens the vectors of models that were trained for it.
        prompt_name: which of the model's prompts stands before each text, such as ``"query"``; None
            is the model's default, where it has one.
        truncate: whether the beginning of a text that is too long is embedded; else it is an error.
        cache: a folder that keeps vectors, or a dict of ``folder``, ``max_bytes`` and ``ttl``;
            overrides the service's.
        ordered: False emits each record as soon as it is done.
        max_in_flight: records in flight; None takes the service's capacity.
        retries: how often a record is tried again when the engine, not the record, failed.
    """

    task = "embed"

    def __init__(
        self,
        service_name: str = "vllm_service",
        timeout: float | None = None,
        *,
        model: str | None = None,
        text_key: str = "text",
        text_template: str | None = None,
        output_key: str = "embedding",
        normalize: bool = True,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool = False,
        cache: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        ordered: bool = True,
        max_in_flight: int | None = None,
        retries: int = 0,
    ) -> None:
        super().__init__(
            service_name,
            timeout=timeout,
            ordered=ordered,
            max_in_flight=max_in_flight,
            retries=retries,
        )
        special = given(
            dimensions=dimensions,
            prompt_name=prompt_name,
            model=model,
            truncate=truncate or None,
            cache=cache,
        )
        self.options = {"normalize": normalize, **special}
        self._forms = RecordForms(
            input_key=text_key, key_argument="text_key", output_key=output_key
        )
        self._template = (
            None if text_template is None else PromptTemplate(text_template, "text_template")
        )

    @errors_in_future
    def submit(self, record: Any) -> Future[Any]:
        """Start the embedding of one record."""
        text = self._text(record)
        return self.call_service_async(self.service_name, text, method="embed", **self.options)

    def complete(self, record: Any, result: dict[str, Any]) -> Any:
        """Return the record with its vector."""
        one = self._template is not None or isinstance(self._forms.read(record), str)
        output = result["vectors"][0] if one else result["vectors"]
        return self._forms.enrich(record, output, {self._forms.output_key: output})

    def _text(self, record: Any) -> Any:
        if self._template is None:
            return self._forms.read(record)
        return self._template.render(self._forms.fields(record))


_PARAMETERS = tuple(inspect.signature(VLLMServiceGenerator).parameters)

VLLMServiceEmbedder = VLLMEmbeddingOperator
"""The same by a name like VLLMServiceGenerator's."""
