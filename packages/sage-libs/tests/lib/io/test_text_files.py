"""JSON Lines as people have them: encodings, compression, lines that are no JSON."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import logging
import lzma
import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from sage.common.core.errors import SageError
from sage.common.core.local_path import NotALocalPathError
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.checkpoint import CheckpointError
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.io import (
    InputFileError,
    JSONLSink,
    JSONLSource,
    MissingInputError,
    OutputFileError,
    ParquetSource,
)

RECORDS: list[Any] = [{"id": 1, "text": "Grüße, 世界 😀"}, "zwei\u2028x", 3.5, None]
TEXT = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in RECORDS)


def zstd(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, "zstd", asbytes=True))


def unzstd(data: bytes) -> bytes:
    return bytes(pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd").read())


PACKED: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".gz": (gzip.compress, gzip.decompress),
    ".bz2": (bz2.compress, bz2.decompress),
    ".xz": (lzma.compress, lzma.decompress),
    ".zst": (zstd, unzstd),
}


def read(path: Path, **options: Any) -> list[Any]:
    out: list[Any] = []
    env = LocalEnvironment("read")
    env.from_source(JSONLSource, path, **options).sink(out.append)
    env.submit()
    return out


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("\n", "\r\n").encode(),
        codecs.BOM_UTF8 + TEXT.replace("\n", "\r\n\r\n").encode(),
        TEXT.replace("\n", "\r\n").encode("utf-16"),
        TEXT.rstrip("\n").encode("utf-16"),
    ],
    ids=[
        "utf-8 bom", "utf-16-le bom", "utf-16-be bom", "utf-16-le", "utf-16-be", "utf-32",
        "crlf", "bom, crlf, blank lines", "utf-16 crlf", "utf-16, no line end",
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_encodings_and_line_ends_are_no_part_of_a_record(
    tmp_path: Path, data: bytes, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(pack(data))
    assert read(path) == RECORDS


def test_files_that_were_joined_are_read_whole(tmp_path: Path) -> None:
    part = codecs.BOM_UTF8 + TEXT.encode()
    (tmp_path / "in.jsonl").write_bytes(part + part)
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(part) + gzip.compress(part))
    (tmp_path / "in.jsonl.zst").write_bytes(zstd(part) + zstd(part))
    for name in ("in.jsonl", "in.jsonl.gz", "in.jsonl.zst"):
        assert read(tmp_path / name) == RECORDS * 2


def test_the_line_of_an_error_is_that_of_the_file(tmp_path: Path) -> None:
    text = "1\r\n\r\n{\r\n2\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "in.jsonl").write_bytes(text.encode(encoding))
        with pytest.raises(InputFileError, match=r"in\.jsonl, line 3: no JSON: Expecting"):
            read(tmp_path / "in.jsonl")


@pytest.mark.parametrize("suffix", PACKED)
def test_compressed_files_are_read_whatever_their_name(tmp_path: Path, suffix: str) -> None:
    pack, _ = PACKED[suffix]
    for name in (f"in.jsonl{suffix}", "in.jsonl"):
        (tmp_path / name).write_bytes(pack(TEXT.encode()))
        assert read(tmp_path / name) == RECORDS
        (tmp_path / name).unlink()
    (tmp_path / f"in.jsonl{suffix}").write_text(TEXT, encoding="utf-8")  # a browser unpacked it
    assert read(tmp_path / f"in.jsonl{suffix}") == RECORDS


@pytest.mark.parametrize("suffix", PACKED)
def test_a_compressed_file_that_was_cut_or_damaged_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"in.jsonl{suffix}"
    lines = "".join(f'{{"id": {n}, "text": "{n * n}"}}\n' for n in range(5000)).encode()
    whole = PACKED[suffix][0](lines)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputFileError, match=rf"in\.jsonl\{suffix}, line \d+: it cannot be read"):
        read(path, on_error="skip")  # all that follows is missing: no matter of one record
    path.write_bytes(whole[:-40] + b"\xff" * 30 + whole[-10:])
    with pytest.raises(InputFileError, match=rf"in\.jsonl\{suffix}, line \d+: "):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(InputFileError, match="it is empty, which no compressed file is"):
        read(path)


def test_utf_16_that_was_cut_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes("1\n2\n".encode("utf-16")[:-1])
    with pytest.raises(InputFileError, match=r"in\.jsonl, line 2: it cannot be read on"):
        read(tmp_path / "in.jsonl")


def test_a_folder_has_compressed_files_too_and_none_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("1\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"2\n"))
    (tmp_path / "c.jsonl.zst").write_bytes(zstd(b"3\n"))
    assert read(tmp_path) == [1, 2, 3]
    (tmp_path / "c.jsonl").write_text("3\n")
    with pytest.raises(InputFileError, match=r"it holds both c\.jsonl and c\.jsonl\.zst; remove"):
        read(tmp_path)


def test_compression_that_is_not_known_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.lz4").write_bytes(b"\x04\x22\x4d\x18")
    with pytest.raises(InputFileError, match=r"\.lz4 files are not known, only \.gz, .*; unpack"):
        read(tmp_path / "in.jsonl.lz4")
    with pytest.raises(OutputFileError, match=r"out\.jsonl\.zip: \.zip files are not known"):
        JSONLSink(tmp_path / "out.jsonl.zip")


# -- numbers that JSON does not have ---------------------------------------------------

ODD = ['{"prompt": "x", "score": NaN}', "[1, -Infinity]", "1e999", '{"a": [Infinity]}']


@pytest.mark.parametrize("line", ODD)
def test_a_number_that_json_has_not_is_refused_before_any_work(tmp_path: Path, line: str) -> None:
    (tmp_path / "in.jsonl").write_text(f"0.5\n{line}\n")
    worked: list[Any] = []
    env = LocalEnvironment("generate")
    env.from_source(JSONLSource, tmp_path / "in.jsonl").map(worked.append).sink(print)
    with pytest.raises(InputFileError, match=r"in\.jsonl, line 2: .* is no number that JSON has"):
        env.submit()
    assert worked == [0.5]


def test_such_numbers_may_be_read_as_null_or_kept(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join(ODD))
    assert read(tmp_path / "in.jsonl", not_finite="null") == [
        {"prompt": "x", "score": None}, [1, None], None, {"a": [None]},
    ]  # fmt: skip
    kept = read(tmp_path / "in.jsonl", not_finite="keep")
    assert math.isnan(kept[0]["score"])
    assert kept[1:] == [[1, -math.inf], math.inf, {"a": [math.inf]}]
    with pytest.raises(ValueError, match=r"not_finite takes .*, not 'nul'; did you mean 'null'\?"):
        JSONLSource(tmp_path, not_finite="nul")  # type: ignore[arg-type]  # wrong by intent


# -- lines that are no JSON ---------------------------------------------------

MIXED = b'{"id": 0}\n{"id": 1\n\n\xff\xfe\n{"id": NaN}\r\n' + b"[" * 100_000 + b'\n{"id": 5}\n'


def bad_letters() -> list[tuple[int, str]]:
    return [(2, '{"id": 1'), (4, "\udcff\udcfe"), (5, '{"id": NaN}'), (6, "[" * 100_000)]


def test_bad_lines_go_to_a_dead_letter_sink_with_number_and_text(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(MIXED)
    letters: list[FailedRecord] = []
    assert read(path, on_error=letters.append, name="read") == [{"id": 0}, {"id": 5}]
    assert [letter.record for letter in letters] == [
        {"path": str(path), "line": line, "text": text} for line, text in bad_letters()
    ]
    assert {letter.operator for letter in letters} == {"read"}
    errors = [letter.error for letter in letters]
    assert [error.line for error in errors if isinstance(error, InputFileError)] == [2, 4, 5, 6]
    assert str(errors[0]) == f"{path}, line 2: no JSON: Expecting ',' delimiter (column 10)"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a\tb"}', "Invalid control character (column 12)"),
        ('{"text": "a', "a string in it has no end"),
        ('{"text": "\\x"}', "Invalid \\escape (column 11)"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_in_whole_words(
    line: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text(f"{line}\n")
    with pytest.raises(InputFileError) as caught:
        read(tmp_path / "in.jsonl")
    assert caught.value.reason == f"no JSON: {problem}"


def test_bad_lines_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(MIXED)
    out: list[Any] = []
    env = LocalEnvironment("read")
    env.from_source(JSONLSource, tmp_path / "in.jsonl", on_error="skip").sink(out.append)
    env.submit()
    metrics = env.metrics()
    source = metrics.operator("JSONLSource")
    assert out == [{"id": 0}, {"id": 5}]
    assert (source.records_out, source.skipped, source.failed) == (2, 4, 0)
    assert (metrics.done, metrics.length) == (6, 6)


@pytest.mark.parametrize("stops", [[0], [3, 4, 5], [5, 9, 50]])
def test_a_run_that_goes_on_has_each_bad_line_once(tmp_path: Path, stops: list[int]) -> None:
    lines = [f"{{{n}" if n % 4 == 3 else str(n) for n in range(60)]
    (tmp_path / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def run(stop_at: int | None) -> None:
        def work(record: int) -> int:
            if stop_at is not None and record >= stop_at:
                raise OSError("cut")
            return record

        env = LocalEnvironment("run")
        dead = partial(JSONLSink, tmp_path / "bad.jsonl.gz")
        stream = env.from_source(JSONLSource, tmp_path / "in.jsonl", on_error=dead)
        stream.map(work).sink(JSONLSink, tmp_path / "out.jsonl.zst")
        env.submit(checkpoint=tmp_path / "checkpoint")

    for stop_at in stops:
        with pytest.raises(OSError, match="cut"):
            run(stop_at)
    run(None)
    good = unzstd((tmp_path / "out.jsonl.zst").read_bytes())
    bad = gzip.decompress((tmp_path / "bad.jsonl.gz").read_bytes())
    assert good.decode().split() == [line for line in lines if not line.startswith("{")]
    texts = [json.loads(line)["record"]["text"] for line in bad.splitlines()]
    assert texts == [line for line in lines if line.startswith("{")]


# -- compressed outputs ---------------------------------------------------


@pytest.mark.parametrize("suffix", PACKED)
def test_an_output_is_compressed_by_its_suffix_and_the_same_after_any_stops(
    tmp_path: Path, suffix: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f"{n}\n" for n in range(100)))

    def run(folder: Path, stop_at: int | None) -> None:
        def work(record: int) -> int:
            if record == stop_at:
                raise OSError("cut")
            return record

        env = LocalEnvironment("run")
        env.from_source(JSONLSource, source).map(work).sink(JSONLSink, folder / f"out{suffix}")
        env.submit(checkpoint=folder / "checkpoint")

    for stop_at in (10, 40, 99):
        with pytest.raises(OSError, match="cut"):
            run(tmp_path / "stopped", stop_at)
    for folder in (tmp_path / "stopped", tmp_path / "undisturbed"):
        run(folder, None)
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", f"out{suffix}"]
    written = (tmp_path / "stopped" / f"out{suffix}").read_bytes()
    assert PACKED[suffix][1](written).decode() == source.read_text()
    assert written == (tmp_path / "undisturbed" / f"out{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", PACKED)
def test_a_kill_after_a_compressed_output_was_published_is_mended(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"out{suffix}"
    sink = JSONLSink(path)
    sink.begin(None)
    sink.execute("a")
    state = sink.state()
    sink.finish()
    sink.cleanup()
    published = path.read_bytes()
    again = JSONLSink(path)
    again.begin(state)
    assert again.state() == state
    again.finish()
    again.cleanup()
    assert path.read_bytes() == published
    assert list(tmp_path.iterdir()) == [path]


def test_a_compressed_output_that_is_not_what_was_counted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.gz").write_bytes(gzip.compress(b"1\n"))
    sink = JSONLSink(tmp_path / "out.gz")
    with pytest.raises(OutputFileError, match="has 0 bytes where the checkpoint has counted 4"):
        sink.begin(4)
    sink.cleanup()
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b"1\n"


# -- paths ---------------------------------------------------


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("1\n")
    env = LocalEnvironment("home")
    env.from_source(JSONLSource, "~/in.jsonl").sink(JSONLSink, "~/out.jsonl")
    env.submit(checkpoint="~/checkpoint")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint", "in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("address", ["s3://b/x", "hf://datasets/x", Path("gs://b/x"), "HTTP://h/x"])
def test_an_address_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for what in (JSONLSource, JSONLSink, ParquetSource):
        with pytest.raises(NotALocalPathError, match="is an address, not a path of this machine"):
            what(address)
    env = LocalEnvironment("remote")
    env.from_collection([1]).sink(JSONLSink, "out.jsonl")
    with pytest.raises(NotALocalPathError, match=str(address)):
        env.submit(checkpoint=address)
    assert list(tmp_path.iterdir()) == []


def test_a_file_address_is_told_how_to_be_written() -> None:
    with pytest.raises(NotALocalPathError, match="write the path without file://"):
        JSONLSource("file:///in.jsonl")


@pytest.mark.parametrize("source", [JSONLSource, ParquetSource])
def test_a_missing_input_is_one_error_and_nothing_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], source: Any
) -> None:
    env = LocalEnvironment("missing")
    env.from_source(source, tmp_path / "in").sink(JSONLSink, tmp_path / "out.jsonl")
    with caplog.at_level(logging.DEBUG), pytest.raises(FileNotFoundError) as caught:
        env.submit()
    assert str(caught.value) == f"there is no file or folder {tmp_path / 'in'}"
    assert caplog.records == []
    assert tuple(capfd.readouterr()) == ("", "")
    with pytest.raises(FileNotFoundError, match=f"folder x; the working directory is {Path.cwd()}"):
        read(Path("x"))


def test_a_checkpoint_in_a_file_is_an_error_of_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text("")
    env = LocalEnvironment("file")
    env.from_collection([1]).sink(JSONLSink, tmp_path / "out.jsonl")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        env.submit(checkpoint=tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "error",
    [
        InputFileError("in.jsonl", 3, "no JSON", hint="mend it"),
        MissingInputError("in.jsonl", "there is no file or folder in.jsonl"),
        OutputFileError("out.jsonl", "it is a folder", hint="name a file"),
        NotALocalPathError("s3://b/x", "s3://b/x is an address", "copy it"),
    ],
)
def test_errors_of_files_are_data_that_survives_pickling(error: SageError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.hint, vars(again)) == (str(error), error.hint, vars(error))
    assert again.path == vars(error)["path"]


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("in.csv", b"id,text\n1,tea\n", "csv.DictReader makes dicts"),
        ("in.tsv.gz", gzip.compress(b"id\ttext\n", mtime=0), "csv.DictReader makes dicts"),
        ("in.json", b'[{"id": 1},\n{"id": 2}]\n', "jq -c '.[]'"),
        ("in.json", b'{\n"id": 1\n}\n', "jq -c ."),
        ("in.jsonl", '{"text": "Grüße"}\n'.encode("latin1"), "iconv -f LATIN1 -t UTF-8"),
    ],
)
def test_a_file_of_another_form_says_what_to_do(
    name: str, content: bytes, hint: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    env = LocalEnvironment("other")
    env.from_source(JSONLSource, tmp_path / name).print()
    with pytest.raises(InputFileError, match="line 1: no JSON") as caught:
        env.submit()
    assert hint in str(caught.value)
