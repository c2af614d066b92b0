"""`sage llm bench` on a tiny model, with the real engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from command_line import lines, refused

from sage.common.model_registry.vllm_registry import import_model

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

CHAT_MODEL = "test/tiny-chat"


@pytest.fixture
def root(model_root: Path) -> Path:
    return model_root


def test_json_has_every_level_with_its_rates_and_percentiles(sage: CommandLine) -> None:
    options = [
        "--requests",
        "6",
        "--prompt-tokens",
        "20",
        "--max-tokens",
        "40",
        "--in-flight",
        "1,8",
    ]
    done = sage("llm", "bench", CHAT_MODEL, *options, "--max-model-len", "64", "--json", "--quiet")
    report = json.loads("\n".join(lines(done)))
    assert report["model_id"] == CHAT_MODEL
    assert report["device"]
    assert report["engine"]["max_model_len"] == 64
    assert report["start_seconds"] > report["engine"]["start_seconds"] / 2
    one, eight = report["levels"]
    for level, in_flight, requests in ((one, 1, 6), (eight, 8, 8)):
        assert (level["in_flight"], level["requests"]) == (in_flight, requests)
        assert level["output_tokens"] == 40 * requests
        assert 15 * requests <= level["prompt_tokens"] <= 20 * requests
        rate = level["output_tokens_per_second"]
        assert rate == pytest.approx(level["output_tokens"] / level["seconds"])
        latency, first = level["latency_seconds"], level["first_token_seconds"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] < level["seconds"]
        assert 0 < first["p50"] <= first["p95"] < level["seconds"]
        assert 0 < level["mean_batch_size"] <= in_flight
    assert one["mean_batch_size"] == pytest.approx(1)
    assert eight["mean_batch_size"] > 2


def test_a_terminal_shows_progress_then_a_table_for_the_model_used_last(sage: CommandLine) -> None:
    options = ["--requests", "2", "--prompt-tokens", "8", "--max-tokens", "4", "--in-flight", "2"]
    terminal = sage.terminal("llm", "bench", *options)
    assert terminal.finish() == 0
    assert "Warming up ..." in terminal.raw
    assert "2 in flight: 2 of 2 requests" in terminal.raw
    *_, header, row = terminal.text.splitlines()
    assert header.split()[:3] == ["IN", "FLIGHT", "REQUESTS/S"]
    assert row.split()[0] == "2"
    assert "Model:    test/tiny-" in terminal.text


def test_ctrl_c_ends_it_at_once(sage: CommandLine) -> None:
    terminal = sage.terminal(
        "llm", "bench", CHAT_MODEL, "--requests", "10000", "--max-tokens", "64"
    )
    terminal.read_until("1 in flight: ")
    terminal.type("\x03")
    assert terminal.finish() == 130
    assert "Error: Interrupted." in terminal.text
    assert "Nothing was kept." in terminal.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--in-flight", "1,x"], "--in-flight takes numbers"),
        (["--in-flight", "0"], "--in-flight takes numbers"),
        (["--requests", "0"], "--requests"),
        (["--prompt-tokens", "500", "--max-tokens", "600"], "are 1100 together; the model takes"),
        (["--max-model-len", "16"], "are 192 together; the model takes 16"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_model_is_loaded(
    options: list[str], said: str, sage: CommandLine
) -> None:
    refused(sage("llm", "bench", CHAT_MODEL, *options), said, code=2)


def test_a_model_for_embedding_is_refused(sage: CommandLine, source: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    import_model("owner/embedder", source, link=True, tags={"type": "embedding"}, root=own)
    done = sage("llm", "bench", "owner/embedder", SAGE_VLLM_MODEL_ROOT=str(own))
    refused(done, "owner/embedder is for embedding", code=2)


def test_a_model_that_is_not_there(sage: CommandLine) -> None:
    refused(sage("llm", "bench", "test/tiny-chap"), "Did you mean test/tiny-chat")
