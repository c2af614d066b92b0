"""Outputs on file systems that are small, or a mount for a single file."""

from __future__ import annotations

import errno
import gzip
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSink, ParquetSink

RECORDS = [{"n": n, "text": "ü" * 500} for n in range(3000)]


@contextmanager
def mounted(*how: str, at: Path) -> Iterator[None]:
    if subprocess.run(["mount", *how, str(at)], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs a privileged user")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)  # an error may hold a file


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_an_output_that_is_a_mount_of_its_own(tmp_path: Path, name: str) -> None:
    # As of `docker run -v $PWD/out.jsonl:/data/out.jsonl`: it cannot be renamed over.
    outside, inside = tmp_path / "outside", tmp_path / name
    outside.touch()
    inside.touch()
    with mounted("--bind", str(outside), at=inside):
        env = LocalEnvironment("job")
        env.from_collection(RECORDS).sink(JSONLSink, inside)
        env.submit(checkpoint=tmp_path / "checkpoint")
        assert inside.read_bytes() == outside.read_bytes()
    text = outside.read_bytes()
    lines = (gzip.decompress(text) if name.endswith(".gz") else text).splitlines()
    assert [json.loads(line) for line in lines] == RECORDS
    assert sorted(path.name for path in tmp_path.glob("out*")) == sorted([name, "outside"])


@pytest.mark.parametrize("sink", [JSONLSink, ParquetSink])
def test_a_disk_that_fills_up_loses_nothing(
    tmp_path: Path, sink: type[JSONLSink] | type[ParquetSink], caplog: pytest.LogCaptureFixture
) -> None:
    disk, checkpoint = tmp_path / "disk", tmp_path / "checkpoint"
    disk.mkdir()

    def submit() -> None:
        env = LocalEnvironment("job")
        stream = env.from_collection(RECORDS)
        if sink is JSONLSink:
            stream.sink(JSONLSink, disk / "out")
        else:
            stream.sink(ParquetSink, disk / "out", rows_per_part=100)
        env.submit(checkpoint=checkpoint)

    with mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", at=disk):
        with pytest.raises(OSError, match="No space left") as raised:
            submit()
        assert raised.value.errno == errno.ENOSPC
        assert not (disk / "out").exists()
        assert not [each for each in caplog.records if each.exc_info]  # the error alone
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        submit()
        if sink is JSONLSink:
            lines = (disk / "out").read_text(encoding="utf-8").splitlines()
            assert [json.loads(line)["n"] for line in lines] == list(range(3000))
        else:
            import pyarrow.parquet

            assert pyarrow.parquet.read_table(disk / "out")["n"].to_pylist() == list(range(3000))
