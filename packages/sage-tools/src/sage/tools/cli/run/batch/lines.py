"""The lines of an input file: read once, each with its number, and made into prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.errors import NoChatTemplateError
from sage.common.core.functions import UnreadableRecord
from sage.kernel.api import InputChange
from sage.libs.io import InputFileError, JSONLSource, MissingInputError
from sage.libs.io.json_lines import NotFiniteNumber
from sage.libs.operators.prompts import ByItself, PromptTemplate, is_empty
from sage.libs.operators.scoring import VLLMClassifyOperator, VLLMScoreOperator
from sage.libs.operators.service_operator import ServiceOperator
from sage.libs.operators.vllm_service import VLLMEmbeddingOperator, VLLMServiceGenerator
from sage.tools.cli.errors import CommandError

_LOOKED_AT = 100  # records: if none of them will do, nor will the others
_MOST_SHOWN = 5


@dataclass
class InputFacts:
    """What is known of an input: how many records it has, once they are counted.

    ``origins`` has the path and line that each of its lines is from, if they were taken from
    another file. A checkpoint does not compare any of this, see ``describe()`` of the kernel.
    """

    records: int | None = None
    origins: Sequence[tuple[str, int]] | None = None


class Lines(JSONLSource):
    """Emits ``{"path", "line", "record"}`` for each line; of one that is no JSON, its ``text``.

    A checkpoint reads all of the input to know it again, and its records are counted on that
    occasion. The count is kept where each instance finds it.
    """

    def __init__(self, path: Path, facts: InputFacts) -> None:
        super().__init__(path)
        self._facts = facts

    def __len__(self) -> int:
        """Count the records, unless that was done."""
        return super().__len__() if self._facts.records is None else self._facts.records

    def input_fingerprint(self) -> dict[str, Any]:
        """Return what tells the input again."""
        found = super().input_fingerprint()
        self._facts.records = _total(found)
        return found

    def input_change(self, before: dict[str, Any]) -> InputChange | None:
        """Say which records are others than before."""
        change = super().input_change(before)
        self._facts.records = _total(before) if change is None else None
        return change

    def record_of(self, path: Path, number: int, line: bytes) -> Any:
        """Return a line with its number; what cannot be read is for the next operator to refuse."""
        if self._facts.origins is not None:
            origin, number = self._facts.origins[number - 1]
            path = Path(origin)
        record = super().record_of(path, number, line)
        if isinstance(record, UnreadableRecord):
            error = record.error
            # That of a number is an argument of the source, which the command does not have.
            of_number = isinstance(error.__cause__, NotFiniteNumber)
            hint = None if of_number else getattr(error, "hint", None)
            problem = getattr(error, "reason", "no JSON")
            said = {"problem": problem} if hint is None else {"problem": problem, "hint": hint}
            return {**record.record, **said}
        return {"path": str(path), "line": number, "record": record}


def _total(fingerprint: Mapping[str, Any]) -> int | None:
    return max((records for records, _ in fingerprint["marks"]), default=None)


class LineForm:
    """What a model is to work on in a line: by the first of some keys, or by a template.

    What comes by itself, not in an object, gets ``own_key``, as the operators give it.
    """

    def __init__(self, template: str | None, *, keys: Sequence[str], own_key: str) -> None:
        self.keys = keys
        self._own_key = own_key
        self._template = None if template is None else PromptTemplate(template, "--template")

    def read(self, line: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return a line's fields and its input; raises InputFileError for a line with none."""
        if "problem" in line:
            raise InputFileError(line["path"], line["line"], line["problem"], hint=line.get("hint"))
        record = line["record"]
        try:
            return self._by_key(record) if self._template is None else self._by_template(record)
        except ValueError as error:
            raise InputFileError(line["path"], line["line"], str(error)) from error

    def _by_template(self, record: Any) -> tuple[dict[str, Any], Any]:
        assert self._template is not None  # noqa: S101 - for the type checker; read() has looked
        fields = record if isinstance(record, Mapping) else ByItself({self._own_key: record})
        return dict(fields), self._template.render(fields)

    def _by_key(self, record: Any) -> tuple[dict[str, Any], Any]:
        if isinstance(record, Mapping):
            key = next((key for key in self.keys if key in record), None)
            if key is None:
                names = " and no ".join(repr(key) for key in reversed(self.keys))
                raise ValueError(f"it has no {names}")
            fields, value = dict(record), record[key]
        else:
            fields, value = {self._own_key: record}, record
        is_conversation = isinstance(value, list) and "messages" in self.keys
        if is_empty(value) or not (isinstance(value, str) or is_conversation):
            raise ValueError(f"{value!r} is nothing to work on")
        return fields, value


class AnswerLines(VLLMServiceGenerator):
    """Answers lines; a plain prompt becomes a conversation if the model has them."""

    form = staticmethod(partial(LineForm, keys=("messages", "prompt"), own_key="prompt"))

    def __init__(self, service_name: str, *, template: str | None, **options: Any) -> None:
        super().__init__(service_name, **options)
        self._form = self.form(template)
        self._converses: bool | None = None

    def prompt_and_options(self, record: Any) -> tuple[Any, Mapping[str, Any]]:
        """Return a line's prompt, and the options of its answer."""
        fields, prompt = self._form.read(record)
        if isinstance(prompt, str) and self._takes_conversations():
            prompt = [{"role": "user", "content": prompt}]
        return super().prompt_and_options([fields, prompt])

    def complete(self, record: Any, result: list[dict[str, Any]]) -> Any:
        """Return the line's fields with the answer."""
        return super().complete(list(self._form.read(record)), result)

    def _takes_conversations(self) -> bool:
        if self._converses is None:
            probe = [[{"role": "user", "content": "Hello"}]]
            try:
                self.call_service(self.service_name, probe, method="count_tokens")
                self._converses = True
            except NoChatTemplateError:
                self._converses = False
        return self._converses


class TextLines(ServiceOperator):
    """The part of an operator that works on a text of each line."""

    form = staticmethod(partial(LineForm, keys=("text", "prompt"), own_key="text"))

    def __init__(self, service_name: str, *, template: str | None, **options: Any) -> None:
        super().__init__(service_name, **options)
        self._form = self.form(template)

    def submit(self, record: Any) -> Future[Any]:
        """Start the work on a line."""
        return super().submit(list(self._form.read(record)))  # type: ignore[safe-super]  # of the operator beside it

    def complete(self, record: Any, result: dict[str, Any]) -> Any:
        """Return the line's fields with what came of it."""
        return super().complete(list(self._form.read(record)), result)


class EmbedLines(TextLines, VLLMEmbeddingOperator):
    """Embeds lines."""


class ScoreLines(TextLines, VLLMScoreOperator):
    """Scores lines for a query."""


class ClassifyLines(TextLines, VLLMClassifyOperator):
    """Classifies lines."""


def check_first_lines(path: Path, form: LineForm) -> None:
    """Raise CommandError if there is no input, or if none of its first lines is a record."""
    bad: list[str] = []
    hint: str | None = None
    try:
        for line in islice(_lines(path), _LOOKED_AT):
            try:
                form.read(line)
            except InputFileError as error:
                bad.append(error.problem)
                hint = hint or error.hint
            else:
                return
    except MissingInputError as error:
        raise CommandError(error.problem, "Name a JSON Lines file with --input.") from error
    if bad:
        among = f" of the first {_LOOKED_AT}" if len(bad) == _LOOKED_AT else ""
        more = f"; and {len(bad) - _MOST_SHOWN:,} more{among}" if len(bad) > _MOST_SHOWN else ""
        named = " or ".join(f'"{key}"' for key in reversed(form.keys))
        way_out = f"{hint[0].upper()}{hint[1:]}. " if hint else ""
        raise CommandError(
            f"{'; '.join(bad[:_MOST_SHOWN])}{more}",
            f"{way_out}A line is a text or an object with {named}, as JSON; --template makes "
            f"prompts of other fields. Nothing was run.",
        )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    source = Lines(path, InputFacts())
    source.setup()
    try:
        while isinstance(line := source.execute(), dict):
            yield line
    finally:
        source.cleanup()
