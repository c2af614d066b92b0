"""lm_eval finds with a service what it finds with transformers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine
from sage.common.model_registry import get_model_path
from sage.libs.evaluation import ServiceLM

MODEL = "test/tiny-chat"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """A task of each kind: which answer is likelier, how likely a text is, what is written."""
    folder = tmp_path_factory.mktemp("tasks")
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HOME", str(folder / "home"))
    patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    words = "sun moon tide rain wind snow leaf root bird fish".split()
    documents = [
        {
            "q": f"{word} and {words[index - 1]} are",
            "a": [words[index - 2], " ".join(words[index - 3 : index - 1]) or "none", "so"],
            "right": index % 3,
            "text": " ".join(words[index:] + words[:index]) * (1 + 9 * (index == 4)),
        }
        for index, word in enumerate(words)
    ]
    file = folder / "documents.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in documents))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
    }
    yield [
        {
            **common,
            "task": "choices",
            "output_type": "multiple_choice",
            "doc_to_text": "{{q}}",
            "doc_to_choice": "{{a}}",
            "doc_to_target": "{{right}}",
        },
        {
            **common,
            "task": "texts",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
        {
            **common,
            "task": "answers",
            "output_type": "generate_until",
            "doc_to_text": "{{q}}",
            "doc_to_target": "so",
            "generation_kwargs": {"until": ["x"], "max_gen_toks": 8, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
    ]
    patch.undo()


def test_it_finds_what_transformers_finds(model_root: Path, tasks: list[Any]) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    engine = {"dtype": "float32", "kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 16}
    config = {"model_id": MODEL, "model_root": model_root, "engine": engine}
    with VLLMService(config) as service:
        ours = lm_eval.simple_evaluate(model=ServiceLM(service), tasks=tasks, bootstrap_iters=0)
        done = service.stats()["requests_done"]
    path = str(get_model_path(MODEL, root=model_root))
    reference = HFLM(path, dtype="float32", device="cpu", batch_size=4, max_length=511)
    theirs = lm_eval.simple_evaluate(model=reference, tasks=tasks, bootstrap_iters=0)
    assert done >= 10 * 3 + 10 + 10
    for name in ("choices", "texts", "answers"):
        for mine, other in zip(ours["samples"][name], theirs["samples"][name], strict=True):
            assert mine["arguments"] == other["arguments"]
            if name == "answers":
                assert mine["resps"] == other["resps"]
                continue
            for (found,), (expected,) in zip(mine["resps"], other["resps"], strict=True):
                if name == "texts":
                    assert found == pytest.approx(expected, abs=0.1)
                else:
                    assert found[0] == pytest.approx(expected[0], abs=1e-2)
                    assert found[1] == expected[1]
    assert ours["results"]["choices"] == theirs["results"]["choices"]


def test_a_service_that_only_embeds_is_refused(model_root: Path) -> None:
    config = {"embedding_model_id": "test/echo", "model_root": model_root}
    with (
        VLLMService(config, engine_factory=EchoEngine) as service,
        pytest.raises(ValueError, match="no text model: add 'model_id'"),
    ):
        ServiceLM(service)
