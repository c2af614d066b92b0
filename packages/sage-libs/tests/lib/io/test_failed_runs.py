"""What runs leave behind that lost every record, or that could not start."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sage.common.service import BaseService
from sage.kernel.api import AllRecordsFailedError, LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource, MissingInputError, OutputFileError

RECORDS = [{"text": n} for n in range(12)]


def txt(record: dict[str, Any]) -> Any:
    return record["txt"]


def test_nothing_is_published_and_the_mended_pipeline_can_be_submitted(tmp_path: Path) -> None:
    output, dead, kept = tmp_path / "out.jsonl", tmp_path / "dead.jsonl", tmp_path / "kept"
    output.write_text('"of yesterday"\n')

    def submit(function: Any) -> None:
        env = LocalEnvironment("job")
        stream = env.from_collection(RECORDS).map(function, on_error=partial(JSONLSink, dead))
        stream.sink(JSONLSink, output)
        env.submit(checkpoint=kept)

    for _ in range(2):  # a scheduler tries again
        with pytest.raises(AllRecordsFailedError):
            submit(txt)
        assert output.read_text() == '"of yesterday"\n'
        assert len(dead.with_name("dead.jsonl.partial").read_text().splitlines()) == 12
        assert not kept.exists()

    def text(record: dict[str, Any]) -> Any:
        return record["text"]

    submit(text)
    assert output.read_text() == "".join(f"{n}\n" for n in range(12))
    assert dead.read_text() == ""


class CannotOpen(BaseService):
    def setup(self) -> None:
        raise OSError("no such model")


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("fails", ["service", "input", "output", "interrupt"])
def test_a_start_that_fails_leaves_no_checkpoint(
    tmp_path: Path,
    fails: str,
    there_before: bool,  # noqa: FBT001
) -> None:
    source, output, kept = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "kept"
    if fails != "input":
        source.write_text("1\n")
    if there_before:
        kept.mkdir()
    before = sorted(tmp_path.iterdir())
    env = LocalEnvironment("job")
    if fails == "service":
        env.register_service("broken", CannotOpen)
    stream = env.from_source(JSONLSource, source)
    if fails == "interrupt":
        stream = stream.map(interrupt)
    stream.sink(JSONLSink, "/proc/out.jsonl" if fails == "output" else output)
    with pytest.raises((OSError, MissingInputError, OutputFileError, KeyboardInterrupt)) as caught:
        env.submit(checkpoint=kept)
    assert "checkpoint" not in str(getattr(caught.value, "__notes__", ""))  # nothing is kept
    output.with_name("out.jsonl.partial").unlink(missing_ok=True)  # which the interrupted run began
    assert sorted(tmp_path.iterdir()) == before
    assert not there_before or not list(kept.iterdir())


def interrupt(record: Any) -> Any:
    raise KeyboardInterrupt
