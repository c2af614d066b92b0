"""GenerationRecords: from records to prompts, and from answers to records."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from sage.common.components.sage_vllm.requests.chat.typed_schema import TypedSchema
from sage.libs.operators.errors import UnfinishedAnswerError
from sage.libs.operators.prompts import PromptTemplate, with_system_prompt
from sage.libs.operators.records import RecordForms

logger = logging.getLogger(__name__)


class _Default(str):
    """A default that is told from the same text given by a caller."""

    __slots__ = ()


DETAILS_KEY = _Default("generation")
"""Where details go unless a caller says it: beside an answer that goes elsewhere, elsewhere too."""
ANSWER_KEY = "generated"


class GenerationRecords:
    """What all generators do with records, whatever answers their prompts.

    The arguments are those of VLLMServiceGenerator.
    """

    def __init__(
        self,
        *,
        prompt_key: str,
        prompt_template: str | None,
        system_prompt: str | None,
        options_key: str | None,
        json_schema: Mapping[str, Any] | None,
        merge_fields: bool,
        output_key: str,
        details_key: str | None,
    ) -> None:
        if details_key is DETAILS_KEY and output_key != ANSWER_KEY:
            details_key = f"{output_key}_details"
        self._is_typed = isinstance(json_schema, TypedSchema)
        if json_schema is not None and not isinstance(json_schema, Mapping):
            raise ValueError(f"json_schema must be a dict, not {json_schema!r}")
        properties = (json_schema or {}).get("properties", {})
        if merge_fields and details_key in properties:
            raise ValueError(
                f"json_schema has a property {details_key!r}, where details_key puts the rest of "
                f"the result; rename the property, or pass another details_key=, or None to "
                f"leave the rest out"
            )
        self._forms = RecordForms(
            input_key=prompt_key,
            key_argument="prompt_key",
            output_key=output_key,
            conversations=True,
        )
        self._template = None if prompt_template is None else PromptTemplate(prompt_template)
        self._system_prompt = system_prompt
        self._options_key = options_key
        self._merge_fields = merge_fields
        self._details_key = details_key
        self._has_warned = False

    @property
    def have_options(self) -> bool:
        """Whether records may have options of their own."""
        return self._options_key is not None

    def prompt(self, record: Any) -> Any:
        """Return a record's prompt: a text, or a conversation; raises ValueError."""
        if self._template is None:
            prompt = self._forms.read(record)
        else:
            prompt = self._template.render(self._forms.fields(record))
        return with_system_prompt(prompt, self._system_prompt)

    def options(self, record: Any) -> Mapping[str, Any]:
        """Return a record's own options; raises ValueError if they are no mapping."""
        if self._options_key is None:
            return {}
        options = self._forms.original_fields(record).get(self._options_key)
        if options is None:
            return {}
        if not isinstance(options, Mapping):
            raise ValueError(f"the record's {self._options_key!r} must be a dict, not {options!r}")
        return options

    def answered(self, record: Any, result: Mapping[str, Any]) -> Any:
        """Return the record with its answer.

        Raises UnfinishedAnswerError for half an object, and ValueError if a field of the answer
        would be lost.
        """
        details = dict(result)
        text, output = details.pop("text"), details.pop("parsed", None)
        reasoning, calls = details.get("reasoning"), details.get("tool_calls")
        is_json = "parsed" in result and not calls
        thought_only = not text and reasoning is not None and not calls
        if thought_only or (is_json and _is_unfinished(output, text, details["finish_reason"])):
            raise UnfinishedAnswerError(text, details["finish_reason"], reasoning)
        if not is_json:
            output = text
        added = self._fields(output, text) if is_json and self._merge_fields else None
        if added is None:
            added = {self._forms.output_key: output}
        if "messages" in details:
            added["messages"] = details.pop("messages")
        if self._details_key is not None:
            if self._details_key in added:  # by a schema of the record's own
                raise ValueError(
                    f"the answer has a field {self._details_key!r}, where details_key puts the "
                    f"rest of the result; pass another details_key=, or None to leave the rest out"
                )
            added[self._details_key] = details
            self._warn_of_details(record)
        return self._forms.enrich(record, output, added)

    def _warn_of_details(self, record: Any) -> None:
        """Say once that records have details already, as those of a generator before this one."""
        if self._has_warned or self._details_key not in self._forms.original_fields(record):
            return
        self._has_warned = True
        logger.warning(
            "records have a field %r already, and the details of this generator's answers replace "
            "it; another details_key= keeps both, None leaves these out",
            self._details_key,
        )

    def _fields(self, output: Any, text: str) -> dict[str, Any] | None:
        """Return what an object adds to a record, as JSON has it; None of what is no object."""
        if self._is_typed:
            output = json.loads(text)
        return dict(output) if isinstance(output, Mapping) else None


def _is_unfinished(parsed: Any, text: str, finish_reason: str) -> bool:
    """Whether JSON was cut off; of a number that was, the rest may be missing."""
    if parsed is None:  # what is no JSON, or a null
        return finish_reason != "stop" or text.strip() != "null"
    return isinstance(parsed, int | float) and finish_reason != "stop"
