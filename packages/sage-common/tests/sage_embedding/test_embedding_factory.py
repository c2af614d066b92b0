"""Methods by name: those that are built in, those of plugins, and the names that are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_embedding import (
    EmbeddingFactory,
    EmbeddingModel,
    get_embedding_model,
)

BUILT_IN = ["hash", "hf", "openai", "vllm"]


def test_the_built_in_methods_are_there_and_make_models() -> None:
    assert set(EmbeddingFactory.methods()) >= set(BUILT_IN)
    for make in (EmbeddingFactory.create, get_embedding_model):
        model = make("hash", dim=12)
        assert isinstance(model, EmbeddingModel)
        assert (model.method_name, model.dim, len(model.embed("a text"))) == ("hash", 12, 12)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("hahs", {}, "unknown embedding method 'hahs'; did you mean 'hash'?"),
        ("word2vec", {}, "unknown embedding method 'word2vec'; valid: hash, hf, openai, vllm"),
        (None, {}, "unknown embedding method None; valid: "),
        ("hash", {"dims": 3}, "'hash' has no option 'dims'; did you mean 'dim'?"),
        ("openai", {}, "'openai' needs model="),
        ("hash", {"dim": 0}, "dim must be at least 1, not 0"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_valid(
    method: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        get_embedding_model(method, **options)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with two embedding methods, one under the name of ours."""
    (tmp_path / "length_embedding.py").write_text(
        "from sage.common.components.sage_embedding import EmbeddingModel\n"
        "class LengthEmbedding(EmbeddingModel):\n"
        "    method_name = 'length'\n"
        "    def _embed(self, texts):\n"
        "        return [[float(len(text)), 1.0] for text in texts]\n"
    )
    info = tmp_path / "length_embedding-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: length-embedding\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sage.embedding_methods]\n"
        "length = length_embedding:LengthEmbedding\n"
        "hash = length_embedding:LengthEmbedding\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plugin")
def test_an_installed_package_adds_a_method_but_replaces_none() -> None:
    assert EmbeddingFactory.methods() == sorted([*BUILT_IN, "length"])
    model = get_embedding_model("length")
    assert model.embed("four") == [4.0, 1.0]
    assert model.dim == 2
    assert get_embedding_model("hash").method_name == "hash"


@pytest.mark.parametrize(
    ("package", "method", "options", "extra"),
    [
        ("sentence_transformers", "hf", "model='a/b'", "isage-common[hf]"),
        ("openai", "openai", "model='m', api_key='k'", "isage-common[openai]"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    package: str, method: str, options: str, extra: str
) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from sage.common.components.sage_embedding import get_embedding_model\n"
        "assert len(get_embedding_model('hash').embed('works all the same')) == 256\n"
        f"get_embedding_model({method!r}, {options})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    said = done.stderr
    assert "PackageNotInstalledError" in said
    assert f"pip install '{extra}'" in said
