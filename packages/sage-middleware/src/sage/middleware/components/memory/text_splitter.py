"""TextSplitter: texts in pieces that an embedding model can take, by its own tokens."""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.common.core.errors import PackageNotInstalledError
from sage.common.model_registry import get_model_path

_DEFAULT_TOKENS = 256
_BORDERS = [  # the best first: a piece ends behind one of these
    re.compile(r"\n[^\S\n]*\n\s*"),  # paragraphs
    re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+[」』”’）]*|\n"),  # noqa: RUF001 - sentences, lines
    re.compile(r"\s+"),  # words
]
_LIMITS = {
    "sentence_bert_config.json": ["max_seq_length"],
    "tokenizer_config.json": ["model_max_length"],
    "config.json": ["max_position_embeddings", "n_positions"],
}
_TWO_POSITIONS_LESS = ("roberta", "xlm-roberta", "mpnet")  # their first ones are for no token
Borders = Sequence[Sequence[int]]
_NO_LIMIT = 10**9  # transformers writes 10**30 for a tokenizer that has none


@dataclass(frozen=True, kw_only=True)
class TextChunk:
    """A piece of a text: ``text`` is ``[start:end]`` of the whole.

    ``tokens`` are those that the model gets, with the prefix and those that it adds itself.
    """

    text: str
    start: int
    end: int
    tokens: int


class TextSplitter:
    """Splits texts into pieces of some tokens, behind a paragraph, sentence or word if it can.

    A piece ends at the last paragraph's end in its second half, else at the last sentence's, else
    at the last word's; only a word that is longer than a piece is cut. The next piece begins with
    what the one before ended with, ``overlap`` tokens at most. Of a text nothing is lost but white
    space between pieces::

        splitter = TextSplitter("Qwen/Qwen3-Embedding-0.6B", max_tokens=400)
        memory.insert_batch([chunk.text for chunk in splitter.split(page)])

    Args:
        model: a model of the registry, or a folder with its ``tokenizer.json``.
        max_tokens: of a piece, with the tokens that the model adds itself; None means 256, or the
            model's limit if that is less.
        overlap: in tokens; None means an eighth of a piece.
        prefix: what will stand before each piece, such as a ``document_prefix``: room for it.
        root: of the registry.

    Raises:
        ValueError: more than the model can take, or a model without ``tokenizer.json``.
        ModelNotFoundError: the registry has no such model.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        max_tokens: int | None = None,
        overlap: int | None = None,
        prefix: str = "",
        root: str | Path | None = None,
    ) -> None:
        folder = Path(model)
        if not folder.is_dir():
            folder = Path(get_model_path(str(model), root=root))
        self.model_limit = _model_limit(folder)
        if max_tokens is None:
            max_tokens = min(_DEFAULT_TOKENS, self.model_limit or _DEFAULT_TOKENS)
        if self.model_limit is not None and max_tokens > self.model_limit:
            raise ValueError(
                f"max_tokens={max_tokens} is more than {model} takes: {self.model_limit} tokens"
            )
        self._tokenizer = _tokenizer(folder)
        self.max_tokens = max_tokens
        self._added: int = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self._prefix = prefix
        self._room = max_tokens - self.count_tokens(prefix)
        self.overlap = max(0, self._room) // 8 if overlap is None else overlap
        if self._room < 1 or not 0 <= self.overlap < self._room:
            raise ValueError(
                f"max_tokens={max_tokens} leaves {self._room} tokens of text (the model adds "
                f"{self._added}, the prefix has the rest), and overlap={self.overlap} must be 0 or "
                f"more and less than that"
            )

    def split(self, text: str) -> list[TextChunk]:
        """Return the pieces of a text, in order; none of an empty one. Raises ValueError."""
        if not isinstance(text, str):
            raise ValueError(f"a text is split, not {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the text is no valid Unicode: {error}") from error
        return list(self._chunks(text))

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text for the model, with those that it adds itself."""
        return len(self._offsets(text)) + self._added

    def _chunks(self, text: str) -> Iterator[TextChunk]:
        starts = [start for start, _ in self._offsets(text)]
        borders = [[found.end() for found in kind.finditer(text)] for kind in _BORDERS]
        start, before = _skip_space(text, 0), 0
        while start < len(text):
            end, tokens = self._end(text, start, before, starts, borders)
            if end <= before:  # what is shared leaves no room for a whole character more
                start = before
                continue
            shown = start + len(text[start:end].rstrip())
            yield TextChunk(text=text[start:shown], start=start, end=shown, tokens=tokens)
            before = _skip_space(text, end)
            if before == len(text):
                return
            start = _skip_space(text, self._next_start(start, end, starts, borders))

    def _end(
        self, text: str, start: int, before: int, starts: Sequence[int], borders: Borders
    ) -> tuple[int, int]:
        """Return where the piece that begins at ``start`` ends, and its tokens.

        It ends behind ``before``, where the text goes on after the piece before it, if it can.
        """
        first = bisect_left(starts, start)
        room = self._room
        while True:
            last = first + room
            if last >= len(starts):
                end = len(text)
            else:
                end = _best_border(start, starts[last], max(start, before), borders)
                end = _whole_character(text, start, max(end, start + 1))
            # A text that is cut out can have a token more than it had inside: so it is counted.
            tokens = self.count_tokens(self._prefix + text[start:end].rstrip())
            excess = tokens - self.max_tokens
            if excess <= 0:
                return end, tokens
            if room == 1:
                raise ValueError(
                    f"{text[start:end]!r} has {tokens} tokens, more than max_tokens="
                    f"{self.max_tokens}"
                )
            room = max(1, min(room, len(starts) - first) - excess)

    def _next_start(self, start: int, end: int, starts: Sequence[int], borders: Borders) -> int:
        """Return where the piece after ``[start:end]`` begins: behind a border, if there is one."""
        if not self.overlap:
            return end
        first = max(0, bisect_left(starts, end) - self.overlap)
        earliest = max(starts[first], start + 1)
        if first and starts[first - 1] == earliest:  # in the middle of a character
            earliest += 1
        for kind in borders[1:]:
            number = bisect_left(kind, earliest)
            if number < len(kind) and kind[number] < end:
                return kind[number]
        return end

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        offsets: list[tuple[int, int]] = self._tokenizer.encode(
            text, add_special_tokens=False
        ).offsets
        return offsets


def _best_border(start: int, latest: int, before: int, borders: Borders) -> int:
    """Return the last border up to ``latest``: of the best kind that has one in the second half.

    It is behind ``before``.
    """
    for kind in borders:
        number = bisect_right(kind, latest) - 1
        if number >= 0 and kind[number] > max(before, (start + latest) // 2):
            return kind[number]
    number = bisect_right(borders[-1], latest) - 1
    return borders[-1][number] if number >= 0 and borders[-1][number] > before else latest


def _whole_character(text: str, start: int, end: int) -> int:
    """Return the end without half of a character that has marks or is joined to the next."""
    whole = end
    while start + 1 < whole < len(text) and (
        unicodedata.category(text[whole]).startswith("M")
        or "\u200d" in (text[whole], text[whole - 1])
        or unicodedata.category(text[whole]) == "Sk"  # the colours of skin
    ):
        whole -= 1
    return whole if whole > start + 1 else end


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _tokenizer(folder: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise PackageNotInstalledError("tokenizers", "isage-common[hf]", str(error)) from error
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no tokenizer.json; transformers makes one: "
            f"AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _model_limit(folder: Path) -> int | None:
    """Return the most tokens that a model takes, None where its files do not say."""
    limits = []
    for name, keys in _LIMITS.items():
        path = folder / name
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = [config[key] for key in keys if isinstance(config.get(key), int)]
        if name == "config.json" and config.get("model_type") in (
            "roberta",
            "xlm-roberta",
            "mpnet",
        ):
            known = [limit - 2 for limit in known]  # their first positions are no tokens
        limits += [limit for limit in known if limit < _NO_LIMIT]
    return min(limits, default=None)
