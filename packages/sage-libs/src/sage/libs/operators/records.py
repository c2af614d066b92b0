"""RecordForms: the records that operators on models take, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.requests.inputs import are_token_ids
from sage.libs.operators.prompts import ByItself, did_you_mean


@dataclass(frozen=True, kw_only=True)
class RecordForms:
    """Reads what a model is to work on, and puts the result beside it in a copy.

    ``key_argument`` is what the operator calls ``input_key``. ``conversations`` says
    whether a list of ``{"role", "content"}``, and one of token ids, is a record by itself; one of
    two would else be taken for ``[original, input]``.
    """

    input_key: str
    key_argument: str
    output_key: str
    conversations: bool = False

    def read(self, record: Any) -> Any:
        """Return what the model is to work on; raises ValueError for what is no record."""
        given = self._given(record)
        texts = given if isinstance(given, list | tuple) else [given]
        if any(isinstance(text, str) and text.isspace() for text in texts):
            raise ValueError(
                f"the record's {self.input_key!r} is blank, which is nothing to work on: {given!r}"
            )
        return given

    def _given(self, record: Any) -> Any:
        if isinstance(record, str) or self._is_prompt(record):
            return record
        if isinstance(record, Mapping):
            if self.input_key not in record:
                has = sorted(map(str, record))
                raise ValueError(
                    f"the record has no key {self.input_key!r}; it has {has}"
                    f"{did_you_mean(self.input_key, has) or ';'} {self.key_argument}= says which "
                    f"it is"
                )
            return record[self.input_key]
        if _is_pair(record):
            return self._second(*record)
        if isinstance(record, list) and record and all(isinstance(r, Mapping) for r in record):
            raise ValueError(
                f"a list of {len(record):,} records is no record: emit them one by one, by "
                f"flatmap(), or write each on a line of its own; the first is {record[0]!r}"
            )
        raise ValueError(
            f"a record must be a string, a dict with the key {self.input_key!r}, or "
            f"[original, {self.input_key}]; not {record!r}"
            f"{', as a function without a return gives' if record is None else ''}"
        )

    def _second(self, original: Any, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(original, Mapping) and self.input_key in given:
            raise ValueError(
                f"a list of two records is no record: emit them one by one, by flatmap(); not "
                f"{[original, given]!r}"
            )
        return given

    def fields(self, record: Any) -> Mapping[str, Any]:
        """Return the fields of a record by name; its input by itself is ``input_key``."""
        if isinstance(record, Mapping):
            return record
        own, original = ByItself({self.input_key: self.read(record)}), self.original_fields(record)
        return {**original, **own} if original else own

    def original_fields(self, record: Any) -> Mapping[str, Any]:
        """Return the fields of a dict, or of the dict that is a pair's original."""
        if isinstance(record, Mapping):
            return record
        if _is_pair(record) and not self._is_prompt(record):
            return record[0] if isinstance(record[0], Mapping) else {}
        return {}

    def enrich(self, record: Any, output: Any, added: Mapping[str, Any]) -> Any:
        """Return the record that goes on, with ``added`` in it.

        A pair whose original is no dict has no room for fields: it becomes ``[original, output]``.
        """
        if isinstance(record, str) or self._is_prompt(record):
            return {self.input_key: record, **added}
        original = record[0] if _is_pair(record) else record
        if isinstance(original, Mapping):
            return {**original, **added}
        return [original, output]

    def _is_prompt(self, record: Any) -> bool:
        return (
            self.conversations
            and isinstance(record, list)
            and bool(record)
            and (
                are_token_ids(record)
                or all(isinstance(message, Mapping) and "role" in message for message in record)
            )
        )


def _is_pair(record: Any) -> bool:
    if isinstance(record, str | bytes):
        return False
    return isinstance(record, Sequence) and len(record) == 2
