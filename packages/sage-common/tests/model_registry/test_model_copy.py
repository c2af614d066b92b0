"""Copying a model from another registry: in pieces, verified, once, and whole or not at all."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from model_files import safetensors

from sage.common.components.sage_vllm.replicas.model_origin import ModelOrigin
from sage.common.model_registry import get_model, import_model, list_models, verify_model
from sage.common.model_registry.download.model_copy import PIECE_BYTES, copy_model
from sage.common.model_registry.model_info import ModelInfo
from sage.common.model_registry.vllm_registry import IntegrityError

MODEL = "owner/model"
LARGE = "model-00002-of-00003.safetensors"


class Source:
    """A registry that models are copied from, and what was read of it."""

    def __init__(self, root: Path) -> None:
        self.origin = ModelOrigin(root)
        self.read_pieces: Counter[str] = Counter()
        self.spoil: dict[str, Any] = {}  # path -> an error, or the bytes that come instead
        self._threads = ThreadPoolExecutor(4)

    def read(self, path: str, offset: int) -> Future[bytes]:
        self.read_pieces[path] += 1
        spoilt = self.spoil.get(path)
        if isinstance(spoilt, bytes):
            return self._threads.submit(lambda: spoilt)
        if spoilt is not None:
            failed: Future[bytes] = Future()
            failed.set_exception(spoilt)
            return failed
        commit = self.record.commit
        return self._threads.submit(self.origin.read, MODEL, commit, path, offset)

    @property
    def record(self) -> ModelInfo:
        found = self.origin.record(MODEL, None)
        assert found is not None
        return found


@pytest.fixture
def there(source: Path, tmp_path: Path) -> Source:
    """A model in three shards, of which one is several pieces long."""
    (source / LARGE).write_bytes(safetensors(2 * PIECE_BYTES + 1000, seed=2))
    import_model(MODEL, source, revision="v1", tags={"why": "test"}, root=tmp_path / "there")
    return Source(tmp_path / "there")


def test_a_copy_is_the_model_itself(there: Source, root: Path) -> None:
    copied = copy_model(there.record, there.read, root=root)
    assert copied == get_model(MODEL, root=root)
    assert verify_model(MODEL, "v1", root=root).ok
    assert (copied.commit, copied.files) == (there.record.commit, there.record.files)
    assert (copied.revision, copied.tags, copied.source) == ("v1", there.record.tags, "import")
    assert there.read_pieces[LARGE] == 3
    assert sum(there.read_pieces.values()) == 3 + 4
    assert not list((root / ".staging").glob("*/*"))


def test_what_is_there_is_not_copied(there: Source, root: Path) -> None:
    first = copy_model(there.record, there.read, root=root)
    there.read_pieces.clear()
    assert copy_model(there.record, there.read, root=root) == first
    assert not there.read_pieces


def test_of_several_at_once_one_copies(there: Source, root: Path) -> None:
    gate = threading.Barrier(4)

    def copy() -> ModelInfo:
        gate.wait()
        return copy_model(there.record, there.read, root=root)

    with ThreadPoolExecutor(4) as threads:
        copies = [each.result() for each in [threads.submit(copy) for _ in range(4)]]
    assert len({str(each.path) for each in copies}) == 1
    assert set(there.read_pieces.values()) == {1, 3}


def test_one_that_was_cut_off_lists_nothing_and_is_gone_on_with(there: Source, root: Path) -> None:
    there.spoil[LARGE] = ConnectionError("the other machine is gone")
    with pytest.raises(ConnectionError, match="the other machine is gone"):
        copy_model(there.record, there.read, root=root)
    assert list_models(root=root) == []
    there.spoil.clear()
    there.read_pieces.clear()
    copy_model(there.record, there.read, root=root)
    assert there.read_pieces[LARGE] == 3
    assert "config.json" not in there.read_pieces  # it was whole
    assert verify_model(MODEL, root=root).ok


def test_bytes_that_differ_are_refused(there: Source, root: Path) -> None:
    there.spoil["tokenizer.json"] = b"[]"
    with pytest.raises(IntegrityError, match=r"damaged: tokenizer\.json .*where it is copied from"):
        copy_model(there.record, there.read, root=root)
    assert list_models(root=root) == []


def test_only_files_of_the_model_are_lent(there: Source) -> None:
    with pytest.raises(FileNotFoundError, match="has no file"):
        there.origin.read(MODEL, there.record.commit, "../../metadata.json", 0)
