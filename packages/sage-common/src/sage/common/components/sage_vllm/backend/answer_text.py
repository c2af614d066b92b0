"""The text of an answer is made of the answer's tokens alone.

vLLM makes text of tokens one by one, with the ``DecodeStream`` of the tokenizers library, which
holds back what ends in U+FFFD: it takes that for a character whose other bytes are still to come.
So a prompt that ends in a U+FFFD of its own is held back too, and comes out with the answer; an
answer's own U+FFFD at its end never comes out; and where the stream loses its thread, vLLM begins a
new one without what was held back. (It decodes the whole prompt for each request, besides: 6 ms for
8,000 tokens, on the thread that steps the engine.)
"""

from __future__ import annotations

import codecs
from typing import Any

_FOREIGN = "\N{REPLACEMENT CHARACTER}"
_BEFORE = ("a", "0", ".")  # texts that an answer may follow; the first that the tokenizer knows


def make_texts_of_answers_alone(detokenizer: Any) -> None:
    """Put an AnswerDetokenizer in the place of vLLM's, in its module ``detokenizer``; once."""
    original: Any = detokenizer.FastIncrementalDetokenizer
    if original.__module__ == __name__:
        return

    class AnswerDetokenizer(original):  # type: ignore[misc]  # vLLM's classes are Any here
        """Decodes an answer as it would stand behind other text, whatever the prompt ends in."""

        def __init__(self, tokenizer: Any, request: Any) -> None:
            super().__init__(tokenizer, request)
            self._tokens = token_texts_of(self.tokenizer)
            self._held: list[int] = []
            if self._tokens.before:
                self._begin_anew()

        def _protected_step(self, next_token_id: int) -> str | None:
            if not self._tokens.before:
                protected: str | None = super()._protected_step(next_token_id)
                return protected
            self._held.append(next_token_id)
            text: str | None = None
            try:
                text = self.stream.step(self.tokenizer, next_token_id)
            except (OverflowError, TypeError):
                detokenizer.logger.exception("Encountered invalid token id: %r", next_token_id)
                self._held.pop()
                return None
            except Exception as error:
                # The bytes of a character were followed by others that are none, and the
                # tokenizer now reads all of them in another way.
                if not str(error).startswith(detokenizer.INVALID_PREFIX_ERR_MSG):
                    raise
            if not text:
                if self._tokens.end_within_a_character(self._held):
                    return None
                text = self._tokens.text_of(self._held, special=not self.skip_special_tokens)
                if not text:
                    return None
                self._begin_anew()
            self._held.clear()
            return text

        def _begin_anew(self) -> None:
            self.stream = detokenizer.tokenizers.decoders.DecodeStream(
                ids=self._tokens.before, skip_special_tokens=self.skip_special_tokens
            )

    detokenizer.FastIncrementalDetokenizer = AnswerDetokenizer


class TokenTexts:
    """What the tokens of a tokenizer of the tokenizers library mean as bytes and as text.

    ``before`` is a text's tokens that an answer may follow; empty where there are none, as with a
    vocabulary of words that are all unknown.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.before, self._text_before = _tokens_before(tokenizer)
        decoder = b"" if tokenizer.decoder is None else tokenizer.decoder.__getstate__()
        self._bytes_of_chars = _bytes_of_chars() if b"ByteLevel" in decoder else None
        self._has_byte_tokens = b"ByteFallback" in decoder
        added = tokenizer.get_added_tokens_decoder()
        self._added: dict[int, bytes] = {
            token_id: token.content.encode() for token_id, token in added.items()
        }

    def text_of(self, token_ids: list[int], *, special: bool) -> str:
        """Return the text of tokens that stand behind other text, ``special`` ones too or not."""
        decoded: str = self._tokenizer.decode(
            self.before + token_ids, skip_special_tokens=not special
        )
        return decoded[len(self._text_before) :]

    def end_within_a_character(self, token_ids: list[int]) -> bool:
        """Whether more bytes could make a character of what these tokens end in."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(b"".join(map(self._bytes_of, token_ids)))
        pending, _ = decoder.getstate()
        return bool(pending)

    def _bytes_of(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id]
        token: str = self._tokenizer.id_to_token(token_id) or ""
        if self._bytes_of_chars is not None:
            return bytes(
                self._bytes_of_chars[char] for char in token if char in self._bytes_of_chars
            )
        if self._has_byte_tokens and len(token) == 6 and token.startswith("<0x"):
            return bytes([int(token[3:5], 16)])
        return token.encode()


def token_texts_of(tokenizer: Any) -> TokenTexts:
    """Return the TokenTexts of a tokenizer, made once and kept with it."""
    try:
        texts: TokenTexts = tokenizer.sage_texts
    except AttributeError:
        texts = tokenizer.sage_texts = TokenTexts(tokenizer)
    return texts


def _tokens_before(tokenizer: Any) -> tuple[list[int], str]:
    for text in _BEFORE:
        token_ids = tokenizer.encode(text, add_special_tokens=False).ids
        decoded = tokenizer.decode(token_ids, skip_special_tokens=True)
        if decoded.strip() and not decoded.endswith(_FOREIGN):
            return token_ids, decoded
    return [], ""


def _bytes_of_chars() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for, as in GPT-2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + n): byte for n, byte in enumerate(others)})
    return table
