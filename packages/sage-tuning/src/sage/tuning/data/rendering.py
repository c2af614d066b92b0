"""From an example to rows of tokens, each trained or not: exactly what the model will see.

A prompt has the tokens that it has when it is served. What is trained is what follows them: the
difference of the conversation with the answer and without it, cut after the first token that vLLM
stops at. So no template has to mark its answers, and the end of an answer is always learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.tuning.data.base_tokenizer import BaseTokenizer
from sage.tuning.data.chat_template import TemplateRefusalError, Turn, text_of_content

ROLES = ("system", "developer", "user", "assistant", "tool")


class UnfitExampleError(ValueError):
    """An example that cannot be trained on; the text says why, to follow its line's number."""


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens, and which of them are trained: ``spans`` of (first, one behind the last).

    ``turn`` is the turn of the conversation that the first span answers with, -1 without any.
    """

    ids: list[int]
    spans: tuple[tuple[int, int], ...]
    turn: int = -1

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return sum(end - start for start, end in self.spans)

    @property
    def prompt(self) -> list[int]:
        """The tokens before the first that is trained."""
        return self.ids[: self.spans[0][0]] if self.spans else self.ids


class Renderer:
    """Renders the examples of one base model.

    Args:
        tokenizer: the model's.
        train_on: ``"assistant"`` trains every answer of a conversation, ``"last"`` only its last
            turn, ``"all"`` every token.
    """

    def __init__(self, tokenizer: BaseTokenizer, train_on: str = "assistant") -> None:
        self._tokenizer = tokenizer
        self._template = tokenizer.chat_template
        self._train_on = train_on
        self._stops = frozenset(tokenizer.stop_ids)

    def render(self, example: Mapping[str, Any]) -> list[Row]:
        """Return the rows of an example that is no preference; raises UnfitExampleError."""
        if "text" in example and "messages" not in example and "prompt" not in example:
            return [self._text(example["text"])]
        turns = turns_of(example)
        if turns is None:
            return [self._completion(example["prompt"], example["completion"])]
        self._check_turns(turns)
        return self._conversation(turns, example.get("tools"))

    def render_pair(self, example: Mapping[str, Any]) -> tuple[Row, Row]:
        """Return the chosen and the rejected row of a preference, their prompts the same."""
        sides = []
        for side in ("chosen", "rejected"):
            answer = example[side]
            if isinstance(example.get("prompt"), str) and isinstance(answer, str):
                sides.append(self._completion(example["prompt"], answer))
                continue
            turns = joined_turns(example.get("prompt") or [], answer)
            self._check_turns(turns)
            sides.append(self._answer(turns, len(turns) - 1, example.get("tools")))
        chosen, rejected = sides
        if chosen.prompt != rejected.prompt:
            raise UnfitExampleError("has different prompts before its chosen and rejected answer")
        if chosen.ids == rejected.ids:
            raise UnfitExampleError("has the same answer chosen and rejected")
        return chosen, rejected

    # -- shapes ---------------------------------------------------------------------------------

    def _text(self, text: str) -> Row:
        if not text:
            raise UnfitExampleError("has an empty text: nothing in it is trained")
        (ids,) = self._tokenizer.encode([text], as_prompt=True)
        if ids[-1] not in self._stops:  # a text that a template made has it already
            ids = [*ids, *self._tokenizer.stop_ids[:1]]
        return Row(ids, ((0, len(ids)),))

    def _completion(self, prompt: str, completion: str) -> Row:
        self._check_content(prompt, "prompt")
        self._check_content(completion, "completion")
        if not completion:
            raise UnfitExampleError("has an empty completion: nothing in it is trained")
        (before,) = self._tokenizer.encode([prompt], as_prompt=True)
        (answer,) = self._tokenizer.encode([completion])
        ids = [*before, *answer, *self._tokenizer.stop_ids[:1]]
        start = 0 if self._train_on == "all" else len(before)
        return Row(ids, ((start, len(ids)),))

    def _conversation(self, turns: Sequence[Turn], tools: Any) -> list[Row]:
        """One row where each turn only adds to the text before it, else one for each answer."""
        answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
        if self._train_on == "last":
            answers = answers[-1:]
        answers = [index for index in answers if is_trained(turns[index])]
        if not answers:
            raise UnfitExampleError("has no answer that is trained")
        rows = [self._answer(turns, index, tools) for index in answers]
        whole = rows[0]
        for row in rows[1:]:
            if row.ids[: len(whole.ids)] != whole.ids:
                return rows  # its template drops something of earlier turns, as for thinking
            whole = Row(row.ids, (*whole.spans, *row.spans), whole.turn)
        if self._train_on == "all":
            return [Row(whole.ids, ((0, len(whole.ids)),))]
        return [whole]

    def _answer(self, turns: Sequence[Turn], index: int, tools: Any) -> Row:
        """Return the row of one answer, after what the model sees when it is asked for it."""
        before, answer = self._answer_text(turns, index, tools)
        prompt, ids = self._tokenizer.encode([before, answer])
        stop = next((place for place, token in enumerate(ids) if token in self._stops), None)
        if stop is None:
            raise UnfitExampleError(
                f"has an answer that the chat template ends without a token that vLLM stops at "
                f"({self._stop_names()}), so the model would never learn to stop: set eos_token_id "
                f"in the base model's generation_config.json"
            )
        if not stop:
            raise UnfitExampleError(f"has nothing to train in turn {index + 1}, an empty answer")
        span = (len(prompt), len(prompt) + stop + 1)
        return Row([*prompt, *ids[: stop + 1]], (span,), index)

    def _answer_text(self, turns: Sequence[Turn], index: int, tools: Any) -> tuple[str, str]:
        template = self._template
        if template is None:
            raise UnfitExampleError("is a conversation, and the base model has no chat template")
        try:
            before = template.render(turns[:index], tools, for_an_answer=True)
            whole = template.render(turns[: index + 1], tools)
        except TemplateRefusalError as error:
            reason = str(error)[:120]
            raise UnfitExampleError(f"is refused by the model's chat template: {reason}") from error
        if whole.startswith(before):
            return before, whole[len(before) :]
        content = text_of_content(turns[index].get("content")).strip()
        start = whole.rfind(content) if content else -1
        if start < 0:
            raise UnfitExampleError(
                f"has an answer in turn {index + 1} that the chat template does not show"
            )
        return before, whole[start:]

    # -- checks ---------------------------------------------------------------------------------

    def _check_turns(self, turns: Sequence[Turn]) -> None:
        for number, turn in enumerate(turns, 1):
            role, content = turn["role"], turn["content"]
            if role not in ROLES:
                raise UnfitExampleError(
                    f"has the unknown role {role!r} in turn {number}; roles are {', '.join(ROLES)}"
                )
            if content is None and turn.get("tool_calls"):
                continue
            if not isinstance(content, str | list):
                kind = type(content).__name__
                raise UnfitExampleError(f"has a content in turn {number} that is no text ({kind})")
            self._check_content(text_of_content(content), f"turn {number}")
        if not any(turn["role"] == "assistant" for turn in turns):
            raise UnfitExampleError("has no turn of the assistant, so nothing to learn")

    def _check_content(self, text: str, where: str) -> None:
        """Refuse what would become a token of the template's: it would end or begin a turn."""
        found = next((token for token in self._tokenizer.special_tokens if token in text), None)
        if found is not None:
            raise UnfitExampleError(f"has the special token {found!r} within its {where}")

    def _stop_names(self) -> str:
        names = (self._tokenizer.text_of([token]) for token in self._tokenizer.stop_ids)
        return ", ".join(map(repr, names)) or "none is set"


def turns_of(example: Mapping[str, Any]) -> list[Turn] | None:
    """Return the turns of a conversation, with its last answer; None for texts."""
    if "messages" in example:
        return list(example["messages"])
    if isinstance(example["prompt"], str) and isinstance(example["completion"], str):
        return None
    return joined_turns(example["prompt"], example["completion"])


def prompt_of(example: Mapping[str, Any], turn: int) -> Prompt | None:
    """Return what a caller would pass to ``generate`` to be answered with a turn of an example.

    None for a text, which answers nothing, and for a conversation with tools.
    """
    if "tools" in example or not {"messages", "prompt", "chosen"} & example.keys():
        return None
    if turn < 0:
        return str(example["prompt"])
    if "chosen" in example:
        turns: list[Turn] | None = joined_turns(example.get("prompt") or [], example["chosen"])
    else:
        turns = turns_of(example)
    shown = [{"role": each["role"], "content": each["content"]} for each in (turns or [])[:turn]]
    return shown or None


def joined_turns(prompt: Any, answer: Any) -> list[Turn]:
    """Return the turns of a prompt and its answer, of which a text is a single turn."""
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    after = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    return [*before, *after]


def is_trained(turn: Turn) -> bool:
    """Whether a turn's own ``train`` or ``weight`` leaves it to be trained."""
    return bool(turn.get("train", True)) and bool(turn.get("weight", 1))


def pieces(tokenizer: BaseTokenizer, row: Row) -> Iterator[tuple[str, bool]]:
    """Yield the texts of a row, one after the other, and whether each is trained."""
    place = 0
    for start, end in row.spans:
        if start > place:
            yield tokenizer.text_of(row.ids[place:start]), False
        yield tokenizer.text_of(row.ids[start:end]), True
        place = end
    if place < len(row.ids):
        yield tokenizer.text_of(row.ids[place:]), False
