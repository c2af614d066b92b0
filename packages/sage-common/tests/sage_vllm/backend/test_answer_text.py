"""The text of an answer is its own, whatever the prompt ends in and its tokens are cut into."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from sage.common.components.sage_vllm.backend.answer_text import make_texts_of_answers_alone

pytest.importorskip("vllm")
FOREIGN = "\N{REPLACEMENT CHARACTER}"
SAID = ["hello world yes no", "a b c d e f 0 1 2 ( ) . , !", "what is the capital of France?"]
PROMPTS = [
    "Hello",
    f"What …? {FOREIGN}",
    FOREIGN,
    f"{FOREIGN * 3}",
    "ends in 😀",
    " ",
    f"a{FOREIGN} ",
]
texts = st.text(st.characters(codec="utf-8")).filter(bool)
# Characters of several bytes, U+FFFD itself among them, are rare in texts of all characters.
awkward = st.text(st.sampled_from(f"ab {FOREIGN}é你😀👩\u200d💻\x00\n"), min_size=1)


def byte_level() -> Tokenizer:
    """Tokens of bytes, as GPT-2, Llama 3 and Qwen have them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        SAID * 10,
        trainers.BpeTrainer(
            vocab_size=400,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<s>", "</s>"],
            show_progress=False,
        ),
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Tokens of characters, and of bytes where there is none, as Llama 2 and Gemma have them."""
    chars = sorted({char for said in SAID for char in said} | {"▁", "é"})
    pieces = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *chars]
    pieces += [f"▁{char}" for char in "abcdefghijklmnopqrstuvwxyz"]
    merges = [("▁", char) for char in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: n for n, piece in enumerate(dict.fromkeys(pieces))},
            [merge for merge in merges if merge[1] in chars],
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    return tokenizer


BYTE_LEVEL, BYTE_FALLBACK = byte_level(), byte_fallback()
KINDS = {"byte level": BYTE_LEVEL, "byte fallback": BYTE_FALLBACK}


@pytest.fixture(scope="module")
def answer() -> Callable[..., str]:
    """A function that returns what vLLM makes of an answer's tokens, one by one, after a prompt."""
    from vllm.v1.engine import detokenizer

    make_texts_of_answers_alone(detokenizer)
    make_texts_of_answers_alone(detokenizer)  # once is enough

    def text_of(tokenizer: Tokenizer, prompt: str, token_ids: list[int], **params: Any) -> str:
        sampling = {
            "stop": [],
            "min_tokens": 0,
            "include_stop_str_in_output": False,
            "skip_special_tokens": True,
            "spaces_between_special_tokens": True,
        }
        request = SimpleNamespace(
            request_id="r1",
            prompt_token_ids=tokenizer.encode(prompt).ids,
            sampling_params=SimpleNamespace(**{**sampling, **params}),
        )
        made = detokenizer.FastIncrementalDetokenizer(
            SimpleNamespace(_tokenizer=tokenizer), request
        )
        pieces = []
        for token_id in token_ids:
            made.update([token_id], stop_terminated=False)
            pieces.append(made.get_next_output_text(finished=False, delta=True))
        text: str = made.get_next_output_text(finished=True, delta=False)
        assert "".join(pieces) == text
        return text

    return text_of


def tokens_after_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text as it stands behind other text."""
    before = tokenizer.encode("a", add_special_tokens=False).ids
    both = tokenizer.encode(f"a{text}", add_special_tokens=False).ids
    return both[len(before) :] if both[: len(before)] == before else []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "said", ["yes", " no", FOREIGN, f"yes{FOREIGN}", f"{FOREIGN} yes", "😀", "a 你 b", "é\n"]
)
def test_an_answer_comes_out_whole_and_alone(
    answer: Callable[..., str], kind: str, prompt: str, said: str
) -> None:
    tokenizer = KINDS[kind]
    assert answer(tokenizer, prompt, tokens_after_text(tokenizer, said)) == said


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(prompt=texts | awkward, said=texts | awkward)
def test_any_answer_comes_out_whole_and_alone(
    answer: Callable[..., str], kind: str, prompt: str, said: str
) -> None:
    tokenizer = KINDS[kind]
    token_ids = tokens_after_text(tokenizer, said)
    if token_ids:  # else the tokenizer makes one token of the text before and the answer's start
        assert answer(tokenizer, prompt, token_ids) == said


def bytes_of(token_id: int) -> bytes:
    """Spell a token of the byte-level vocabulary with the table of transformers."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
    token = BYTE_LEVEL.id_to_token(token_id)
    assert token is not None
    return bytes(byte_of[char] for char in token)


@settings(max_examples=500, deadline=None)
@given(
    prompt=texts | awkward,
    token_ids=st.lists(st.integers(2, BYTE_LEVEL.get_vocab_size() - 1), max_size=12),
)
def test_any_bytes_come_out_but_for_those_that_may_yet_become_a_character(
    answer: Callable[..., str], prompt: str, token_ids: list[int]
) -> None:
    raw = b"".join(map(bytes_of, token_ids))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    expected, (pending, _) = decoder.decode(raw), decoder.getstate()
    said = answer(BYTE_LEVEL, prompt, token_ids)
    assert expected.startswith(said)
    # Bytes that are no character wait with the beginning of one that follows.
    assert said == expected or (pending and set(expected[len(said) :]) == {FOREIGN})


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_prompt_changes_the_text_of_tokens(
    answer: Callable[..., str], kind: str, data: st.DataObject
) -> None:
    tokenizer = KINDS[kind]
    ids = st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=12)
    token_ids = data.draw(ids)
    prompt = data.draw(texts | awkward)
    assert answer(tokenizer, prompt, token_ids) == answer(tokenizer, "Hello", token_ids)


def test_bytes_of_an_emoji_wait_for_each_other(answer: Callable[..., str]) -> None:
    for tokenizer in (BYTE_LEVEL, BYTE_FALLBACK):
        token_ids = tokens_after_text(tokenizer, "a😀b")
        found = [answer(tokenizer, "Hi", token_ids[:n]) for n in range(len(token_ids) + 1)]
        assert [text for text, _ in itertools.groupby(found)] == ["", "a", "a😀", "a😀b"]


def test_bytes_that_become_no_character_lose_nothing_beside_them(
    answer: Callable[..., str],
) -> None:
    vocab = BYTE_FALLBACK.get_vocab()
    emoji = [vocab[f"<0x{byte:02X}>"] for byte in "😀".encode()]
    token_ids = [*emoji, vocab["<0xE4>"], vocab["▁b"]]
    assert answer(BYTE_FALLBACK, "Hi", token_ids) == f"😀{FOREIGN} b"


def test_a_stop_text_is_found_though_it_is_a_replacement_character(
    answer: Callable[..., str],
) -> None:
    from vllm.v1.engine import detokenizer

    request = SimpleNamespace(
        request_id="r1",
        prompt_token_ids=BYTE_LEVEL.encode(f"Hi{FOREIGN}").ids,
        sampling_params=SimpleNamespace(
            stop=[FOREIGN],
            min_tokens=0,
            include_stop_str_in_output=False,
            skip_special_tokens=True,
            spaces_between_special_tokens=True,
        ),
    )
    assert answer  # vLLM's is replaced
    made = detokenizer.FastIncrementalDetokenizer(SimpleNamespace(_tokenizer=BYTE_LEVEL), request)
    stops = [
        made.update([token_id], False) for token_id in tokens_after_text(BYTE_LEVEL, f"b{FOREIGN}")
    ]
    assert stops[-1] == FOREIGN
    assert made.get_next_output_text(finished=True, delta=False) == "b"


def test_special_tokens_are_left_out_or_in_as_it_is_asked_for(answer: Callable[..., str]) -> None:
    for tokenizer in (BYTE_LEVEL, BYTE_FALLBACK):
        yes = tokens_after_text(tokenizer, "yes")
        end = tokenizer.token_to_id("</s>")
        assert answer(tokenizer, "Hi", [*yes, end, *yes]) == "yesyes"
        shown = answer(tokenizer, "Hi", [*yes, end, *yes], skip_special_tokens=False)
        assert shown == "yes</s>yes"
