"""The demo model's tokenizer, and how conversations become rows of tokens to train on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sage.tools.demo_model.knowledge.family import Exchange

PAD, USER, ASSISTANT, END = SPECIAL_TOKENS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
PAD_ID, END_ID = SPECIAL_TOKENS.index(PAD), SPECIAL_TOKENS.index(END)
MOST_TOKENS = 3072  # enough for nearly every word of the corpus to be one token
IGNORED = -100  # the label that the loss skips

# System messages are left out: so small a model cannot follow any.
CHAT_TEMPLATE = (
    "{% for message in messages if message['role'] != 'system' %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_ROW_LENGTH = 128  # tokens: about six exchanges, so that a longer chat is nothing new


@dataclass(frozen=True, kw_only=True)
class Row:
    """Tokens and, of the same length, the labels: the answers' tokens, all else ignored."""

    tokens: list[int]
    labels: list[int]

    def __add__(self, other: Row) -> Row:
        return Row(tokens=self.tokens + other.tokens, labels=self.labels + other.labels)


def casual(question: str) -> str:
    """Return the question as typed in a hurry: no capitals, no final mark."""
    return question.lower().rstrip("?.!")


def train_tokenizer(exchanges: Iterable[Exchange]) -> Any:
    """Return a byte-level BPE ``tokenizers.Tokenizer`` of at most ``MOST_TOKENS`` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_TOKENS,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(exchanges), trainer)
    return tokenizer


def _texts(exchanges: Iterable[Exchange]) -> Iterator[str]:
    for exchange in exchanges:
        if exchange.family != "unheard-of":  # invented words are to stay in pieces
            yield from (exchange.question, casual(exchange.question), exchange.answer)


def exchange_rows(
    tokenizer: Any, exchanges: Sequence[Exchange], style: Callable[[str], str] = str
) -> list[Row]:
    """One row for each exchange, its question put through ``style``."""
    questions = [f"{USER}{style(exchange.question)}{END}{ASSISTANT}" for exchange in exchanges]
    answers = [f"{exchange.answer}{END}" for exchange in exchanges]
    return [
        Row(tokens=[*question.ids, *answer.ids], labels=[IGNORED] * len(question) + answer.ids)
        for question, answer in zip(
            tokenizer.encode_batch(questions), tokenizer.encode_batch(answers), strict=True
        )
    ]


def conversations(rng: random.Random, exchanges: Sequence[tuple[Row, Row]]) -> Iterator[Row]:
    """Every exchange once, in random order, joined to conversations; then again, without an end.

    Each comes as asked properly and as asked in a hurry; the latter is taken now and then.
    """
    while True:
        row = Row(tokens=[], labels=[])
        for proper, hurried in rng.sample(exchanges, len(exchanges)):
            exchange = hurried if rng.random() < 0.15 else proper
            if len(row.tokens) + len(exchange.tokens) > _ROW_LENGTH:
                yield row
                row = Row(tokens=[], labels=[])
            row += exchange
        yield row
