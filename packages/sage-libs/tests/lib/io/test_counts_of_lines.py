"""Lines, records and failures are counted alike by whatever counts them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from sage.kernel.api import InputChangedError, LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource


def test_a_blank_line_is_no_record_and_a_bad_line_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, bad, out = (tmp_path / name for name in ("in.jsonl", "bad.jsonl", "out.jsonl"))
    lines = [*(json.dumps({"id": n}) for n in range(299)), "no JSON"]
    path.write_text("\n".join([*lines[:100], "", *lines[100:]]) + "\n\n")

    def submit() -> LocalEnvironment:
        env = LocalEnvironment("job")
        letters = partial(JSONLSink, bad)
        stream = env.from_source(JSONLSource, path, on_error=letters, name="read")
        stream.sink(JSONLSink, out, name="write")
        env.submit(checkpoint=tmp_path / "checkpoint", progress=True)
        return env

    metrics = submit().metrics()
    assert len(JSONLSource(path)) == metrics.length == metrics.done == 300
    assert (metrics.operator("read").records_out, metrics.errors) == (299, 1)
    assert len(out.read_text().splitlines()) == metrics.operator("write").records_out == 299
    assert len(bad.read_text().splitlines()) == 1
    assert "300 read, 299 written, 1 dead-lettered" in capsys.readouterr().err
    with path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(InputChangedError, match="more than 300 records"):
        submit()
