"""A line of `sage llm run --input` comes out as the same record does of an operator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry.vllm_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSource
from sage.libs.operators import (
    VLLMClassifyOperator,
    VLLMScoreOperator,
    VLLMServiceEmbedder,
    VLLMServiceGenerator,
)
from sage.tools.cli.run.batch.lines import (
    AnswerLines,
    ClassifyLines,
    EmbedLines,
    InputFacts,
    Lines,
    ScoreLines,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL, RERANKER = "test/echo", "test/reranker"
OPERATORS = {
    "answer": (AnswerLines, VLLMServiceGenerator),
    "embed": (EmbedLines, VLLMServiceEmbedder),
    "score": (ScoreLines, VLLMScoreOperator),
    "classify": (ClassifyLines, VLLMClassifyOperator),
}
TURNS = [{"role": "user", "content": "one two"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMService]:
    folder = tmp_path_factory.mktemp("echo")
    root = folder / "models"
    import_model(MODEL, write_echo_model(folder / "echo"), root=root)
    import_model(RERANKER, write_echo_model(folder / "head", classes=["fits"]), root=root)
    config = {
        "model_id": MODEL,
        "embedding_model_id": MODEL,
        "scoring_model_id": RERANKER,
        "model_root": root,
    }
    with VLLMService(config, engine_factory=EchoEngine) as opened:
        yield opened


def out_of(service: VLLMService, path: Path, *, lines: bool, **options: Any) -> list[Any]:
    """Return what comes out of a file's records, without what differs from call to call."""
    of_lines, of_records = OPERATORS[options.pop("of", "answer")]
    failed: list[Any] = []
    with LocalEnvironment("lines") as env:
        env.register_service("vllm_service", service)
        if lines:
            stream = env.from_source(Lines, path, InputFacts())
            function: Any = of_lines
            options = {"template": None, **options}
        else:
            stream = env.from_source(JSONLSource, path)
            function = of_records
        stream = stream.map(
            function, "vllm_service", name="model", on_error=failed.append, **options
        )
        records = stream.collect()
        assert env.metrics().operator("model").records_in == env.metrics().length == len(records)
    assert not failed
    for record in records:
        for once in ("latency", "request_id"):
            for details in ("generation", "classification"):
                record.get(details, {}).pop(once, None)
    return records


@pytest.mark.parametrize(
    ("records", "options"),
    [
        (["one two"], {}),
        ([TURNS], {}),
        ([{"id": 1, "prompt": "one two", "generated": "of before"}], {}),
        ([{"prompt": TURNS}], {}),
        ([{"prompt": "one two", "options": {"max_tokens": 1}}], {"options_key": "options"}),
        (["one two", {"id": 1, "prompt": "one", "city": "unknown"}], {"json_schema": CITY}),
        (["one two"], {"json_schema": {"enum": ["yes"]}}),
        (["one two", {"id": 1, "text": "one"}], {"of": "embed"}),
        (["one two", {"id": 1, "text": "one"}], {"of": "score", "query": "two"}),
        (["one two", {"id": 1, "text": "one"}], {"of": "classify", "labels": ["one", "two"]}),
    ],
)
def test_it_is_the_record_of_the_operator(
    records: list[Any], options: dict[str, Any], service: VLLMService, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n\n" for record in records))  # with blank lines
    by_line = out_of(service, path, lines=True, **options)
    assert by_line == out_of(service, path, lines=False, **options)
    assert len(by_line) == len(records)
    if "json_schema" in options and "properties" in options["json_schema"]:
        assert {"city", "generation"} <= set(by_line[1])
        assert "generated" not in by_line[1]
        assert by_line[1]["city"] != "unknown"
