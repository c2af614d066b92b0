"""How vLLM answers with an adapter and without: what the verification compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.adapters.lora_ranks import engine_options_for
from sage.common.components.sage_vllm.driver.shared_engine import SharedEngine
from sage.common.components.sage_vllm.engine_contract import EngineSpec, LoraAdapter, Prompt
from sage.tuning.data.rendering import Row

_ROOM = 8
"""Tokens that an answer may have beyond those of the right one, so that a longer one shows."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A held-out prompt, as a caller passes it, its row, and the right answer."""

    prompt: Prompt
    row: Row
    expected: str

    @property
    def max_tokens(self) -> int:
        """How many tokens an answer may have."""
        start, end = self.row.spans[0]
        return end - start + _ROOM


class RenderedOtherwiseError(RuntimeError):
    """vLLM makes other tokens of a prompt than the training has seen."""


class Serving:
    """An engine and what it says."""

    def __init__(self, engine: SharedEngine) -> None:
        self._engine = engine

    @property
    def dtype(self) -> str:
        """The type of the numbers that it computes with."""
        return self._engine.info.dtype

    def answers(
        self, questions: Sequence[Question], adapters: Sequence[LoraAdapter | None]
    ) -> list[list[str]]:
        """Return the greedy answers to all questions with each of the adapters.

        All are asked at once, those with an adapter beside those without.
        """
        asked = [[self._ask(question, adapter) for adapter in adapters] for question in questions]
        told = [
            [self._told(question, each) for each in group]
            for question, group in zip(questions, asked, strict=True)
        ]
        return [list(column) for column in zip(*told, strict=True)] or [[] for _ in adapters]

    def _ask(self, question: Question, adapter: LoraAdapter | None) -> Future[Any]:
        options = {"temperature": 0, "max_tokens": question.max_tokens, "lora": adapter}
        return self._engine.submit(question.prompt, options)

    @staticmethod
    def _told(question: Question, asked: Future[Any]) -> str:
        generation = asked.result()
        read, trained = list(generation.prompt_token_ids), question.row.prompt
        if read != trained:
            raise RenderedOtherwiseError(
                f"vLLM reads {str(question.prompt)[:80]!r} as {_difference(read, trained)}: the "
                "model's chat template depends on more than the conversation"
            )
        text: str = generation.completions[0].text
        return text

    def loss(self, rows: Sequence[Row], adapter: LoraAdapter | None) -> float:
        """Return the mean negative log-probability of the rows' trained tokens."""
        asked = [self._engine.token_logprobs(row.ids, lora=adapter) for row in rows]
        total, tokens = 0.0, 0
        for row, future in zip(rows, asked, strict=True):
            found = future.result()
            for start, end in row.spans:
                place = max(start, 1) - 1  # the first token of all has no log-probability
                total -= sum(found[place : end - 1])
                tokens += end - 1 - place
        return total / tokens


def _difference(read: Sequence[int], trained: Sequence[int]) -> str:
    if len(read) != len(trained):
        return f"{len(read)} tokens, and {len(trained)} were trained"
    place = next(place for place, token in enumerate(read) if token != trained[place])
    return f"{read[place]} in place {place}, where {trained[place]} was trained"


@contextmanager
def served(
    model_id: str, path: Path, *, rank: int | None, longest: int, room: int
) -> Iterator[Serving]:
    """Give a model as vLLM serves it; ``rank`` is that of the adapters, None for none.

    ``longest`` is the tokens of the longest row, ``room`` the model's context.
    """
    arguments: dict[str, Any] = {
        "max_model_len": min(room, longest + 64),
        "max_num_seqs": 16,
        "reasoning_parser": "",  # thoughts are part of what is trained, so of what is compared
    }
    if rank is not None:
        arguments |= {**engine_options_for(rank), "max_loras": 2}
    spec = EngineSpec(model_id=model_id, path=path, arguments=arguments)
    with closing(SharedEngine(spec)) as engine:
        yield Serving(engine)
