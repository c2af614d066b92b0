"""Searches by words: in languages with and without spaces, and for phrases."""

from __future__ import annotations

from pathlib import Path

import lancedb
import pytest
from lancedb.index import FTS

from sage.common.components.sage_embedding import EmbeddingModel
from sage.middleware.components.memory import VDBMemoryCollection
from sage.middleware.components.memory.lance.text_index import LANGUAGES
from sage.middleware.components.memory.search_mode import SearchMode

TEXTS = {
    "zh": "我喜欢吃北京烤鸭。也喜欢自然语言处理。",
    "ja": "東京は日本の首都です。京都には古い寺がたくさんあります。",
    "th": "สวัสดีครับ ผมชอบกินข้าวผัดที่กรุงเทพ",
    "en": "The red fox jumps over the lazy dogs of Tokyo",
    "en2": "A fox with red ears",
    "de": "Die Häuser der Stadt",
}


@pytest.fixture
def texts(tmp_path: Path, embedder: EmbeddingModel) -> VDBMemoryCollection:
    """One text per language, the id its code; the last two came after the index was made."""
    memory = VDBMemoryCollection(tmp_path, embedder=embedder)
    *first, last, very_last = TEXTS
    memory.insert_batch([TEXTS[code] for code in first], ids=first)
    memory.search("anything", mode="text")
    memory.insert_batch([TEXTS[last], TEXTS[very_last]], ids=[last, very_last])
    return memory


def found(memory: VDBMemoryCollection, query: str, mode: SearchMode = "text") -> set[str]:
    return {hit.id for hit in memory.search(query, k=9, mode=mode)}


@pytest.mark.parametrize(
    ("query", "codes"),
    [
        ("北京", {"zh"}),
        ("烤鸭", {"zh"}),
        ("语言处理", {"zh"}),
        ("首都", {"ja"}),
        ("日本の首都はどこですか", {"ja"}),
        ("寺", {"ja"}),
        ("ข้าวผัด", {"th"}),
        ("กรุงเทพ", {"th"}),
        ("Tokyo's foxes", {"en", "en2"}),
        ("HÄUSER", {"de"}),
        ("dog cat", {"en"}),  # words that are stop words in some language
    ],
)
def test_words_are_found_with_and_without_spaces_between_them(
    texts: VDBMemoryCollection, query: str, codes: set[str]
) -> None:
    assert found(texts, query) == codes
    texts.optimize()
    assert found(texts, query) == codes
    assert codes <= found(texts, query, "hybrid")


@pytest.mark.parametrize(
    ("query", "codes"),
    [
        ('"red fox"', {"en"}),
        ('"RED foxes"', {"en"}),
        ('"fox red"', set()),
        ('"red ears"', {"en2"}),  # not in the index yet
        ('"red fox" ears', {"en"}),
        ('ears "red fox" "lazy dog"', {"en"}),
        ('"red fox" "red ears"', set()),
        ("“red fox”", {"en"}),
        ('"fox"', {"en", "en2"}),
        ('"日本の首都"', {"ja"}),
        ('"首都日本"', set()),
        ('"北京烤鸭"', {"zh"}),
        ('"ข้าวผัด"', {"th"}),
        ('""', set()),
        ('"', set()),
        ('red"', {"en", "en2"}),
        ('"of the"', set()),
        ("?!", set()),
    ],
)
def test_quotes_mean_a_phrase(texts: VDBMemoryCollection, query: str, codes: set[str]) -> None:
    assert found(texts, query) == codes
    texts.optimize()
    assert found(texts, query) == codes
    assert isinstance(texts.search(query, mode="hybrid"), list)
    assert len(texts.search(query, k=9)) == len(TEXTS)  # to a vector, quotes are only characters


def test_the_language_gives_the_stems(tmp_path: Path, embedder: EmbeddingModel) -> None:
    queries = ["Haus", "dogs", "dog", "der"]
    hits: dict[str, list[int]] = {}
    for language in ("german", "english", "none"):
        with VDBMemoryCollection(
            tmp_path, language, embedder=embedder, language=language.title()
        ) as memory:
            memory.insert_batch([TEXTS["de"], TEXTS["en"]])
            hits[language] = [len(memory.search(query, mode="text")) for query in queries]
            assert memory.language == language
    assert hits == {"german": [1, 1, 1, 1], "english": [0, 1, 1, 1], "none": [0, 1, 0, 1]}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_finds_a_word(
    tmp_path: Path, embedder: EmbeddingModel, language: str
) -> None:
    with VDBMemoryCollection(tmp_path, embedder=embedder, language=language) as memory:
        memory.insert_batch(list(TEXTS.values()))
        assert memory.search("北京", mode="text")[0].text == TEXTS["zh"]


def test_the_language_stays_the_collections(tmp_path: Path, embedder: EmbeddingModel) -> None:
    with VDBMemoryCollection(tmp_path, embedder=embedder, language="german") as memory:
        memory.insert(TEXTS["de"])
    with VDBMemoryCollection(tmp_path, embedder=embedder) as memory:
        assert memory.language == "german"
        assert memory.search("Haus", mode="text")
    with pytest.raises(ValueError, match="has the language 'german', not 'french': leave"):
        VDBMemoryCollection(tmp_path, language="french")
    with pytest.raises(ValueError, match="unknown language 'germna'; did you mean 'german'"):
        VDBMemoryCollection(tmp_path, "other", language="germna")


def test_an_index_of_an_earlier_kind_is_made_anew(tmp_path: Path, embedder: EmbeddingModel) -> None:
    with VDBMemoryCollection(tmp_path, embedder=embedder) as memory:
        memory.insert_batch(list(TEXTS.values()), ids=list(TEXTS))
        lancedb.connect(tmp_path).open_table("memory").create_index("text", config=FTS())
        assert found(memory, "北京") == {"zh"}
        assert found(memory, '"red fox"') == {"en"}
