"""A tokenizer that was extended without its model makes tokens that the model has no vector for."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.model_registry import import_model


def test_a_token_that_the_model_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|added|>"])  # and the model is none the wiser
    tokenizer.save(str(folder / "tokenizer.json"))
    import_model("test/extended", folder, root=tmp_path / "root")
    engine = {"kv_cache_memory_bytes": 64 << 20}
    config = {"model_id": "test/extended", "model_root": tmp_path / "root", "engine": engine}
    with VLLMService({**config, "embedding_engine": engine}) as service:
        with pytest.raises(InvalidRequestError, match=r"token \d+ of the tokenizer is none of the"):
            service.generate("a <|added|> b")
        result = service.embed(["fine", "a <|added|> b", "fine"], on_error="return")
        assert [vector is None for vector in result["vectors"]] == [False, True, False]
        assert service.generate("a b", max_tokens=1)[0]["tokens_used"]["completion"] == 1
        assert service.stats()["restarts"] == 0
