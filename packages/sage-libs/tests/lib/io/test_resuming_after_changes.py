"""Runs with a checkpoint that are started again after their input, model or sampling changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.core.functions import MapFunction
from sage.common.model_registry import import_model
from sage.common.service import BaseService
from sage.kernel.api import (
    CheckpointError,
    InputChangedError,
    LocalEnvironment,
    ServiceChangedError,
)
from sage.libs.io import JSONLSink, JSONLSource, ParquetSink, ParquetSource
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service


class Job:
    """Copies ids from one file to another, and stops at one if it is told to."""

    def __init__(self, folder: Path) -> None:
        self.source, self.output = folder / "in.jsonl", folder / "out.jsonl"
        self.checkpoint = folder / "checkpoint"
        self.write(range(10))
        self.stop_at: int | None = None
        self.sink: Any = JSONLSink

    def write(self, ids: Any) -> None:
        self.source.write_text("".join(f'{{"id": {n}}}\n' for n in ids))
        os.utime(self.source, ns=(1, self.source.stat().st_size))  # another time for another size

    def work(self, record: dict[str, int]) -> dict[str, int]:
        if record["id"] == self.stop_at:
            raise OSError("the power is cut")
        return record

    def submit(self, **options: Any) -> None:
        env = LocalEnvironment("job")
        env.from_source(JSONLSource, self.source).map(self.work).sink(self.sink, self.output)
        env.submit(checkpoint=self.checkpoint, **options)

    def stop_half_way(self) -> None:
        self.stop_at = 5
        with pytest.raises(OSError, match="the power is cut"):
            self.submit()
        self.stop_at = None

    @property
    def ids(self) -> list[int]:
        return [json.loads(line)["id"] for line in self.output.read_text().splitlines()]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


# -- the input -------------------------------------------------------------------------------------


def test_a_line_put_before_the_others_is_refused(job: Job) -> None:
    job.stop_half_way()
    job.write([99, *range(10)])
    with pytest.raises(
        InputChangedError, match=r"record 1 of .*in.jsonl is another than before, and 5 are done"
    ) as caught:
        job.submit(input_grew="continue")
    assert not caught.value.grew
    job.write(range(10))
    job.submit()
    assert job.ids == [*range(10)]


def test_a_line_that_is_not_done_yet_may_be_mended(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    job.stop_half_way()
    job.write([0, 1, 2, 3, 4, 55, 6, 7, 8, 9])
    job.submit()
    assert job.ids == [0, 1, 2, 3, 4, 55, 6, 7, 8, 9]
    (record,) = caplog.records
    assert "goes on, although record 6 of" in record.getMessage()


@pytest.mark.parametrize("run", ["stop_half_way", "submit"])
def test_lines_appended_are_refused_or_gone_on_with(job: Job, run: str) -> None:
    getattr(job, run)()
    job.write(range(15))
    with pytest.raises(InputChangedError, match=r"more than 10 records.*input_grew=") as caught:
        job.submit()
    assert caught.value.grew
    for _ in range(2):
        job.submit(input_grew="continue")
        assert job.ids == [*range(15)]
    job.write(range(17))
    with pytest.raises(InputChangedError, match="has more than 15 records"):
        job.submit()


def test_an_input_that_only_grew_goes_on_into_parquet_too(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.sink, job.output = ParquetSink, tmp_path / "out"
    job.submit()
    job.write(range(15))
    job.submit(input_grew="continue")
    ids: list[int] = []
    env = LocalEnvironment("read")
    env.from_source(ParquetSource, job.output).sink(lambda row: ids.append(row["id"]))
    env.submit()
    assert ids == [*range(15)]


def test_a_time_alone_is_no_change(job: Job) -> None:
    job.stop_half_way()
    os.utime(job.source, ns=(1, 1))
    job.submit()
    assert job.ids == [*range(10)]


def test_a_changed_input_of_a_run_that_is_complete_is_refused(job: Job) -> None:
    job.submit()
    job.write([*range(9), 10])
    with pytest.raises(InputChangedError, match=r"record 10 of .* is another than before"):
        job.submit()
    assert job.ids == [*range(10)]


def test_an_input_that_grew_only_continues_by_its_word(job: Job) -> None:
    with pytest.raises(ValueError, match="unknown input_grew 'continu'; did you mean 'continue'"):
        job.submit(input_grew="continu")


# -- what is not there -----------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", ["checkpoint", None])
@pytest.mark.parametrize("source", [JSONLSource, ParquetSource])
def test_a_missing_input_is_one_error(
    tmp_path: Path, source: Any, checkpoint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    env = LocalEnvironment("missing")
    env.from_source(source, tmp_path / "nothing").sink(JSONLSink, tmp_path / "out.jsonl")
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nothing"):
        env.submit(checkpoint=checkpoint and tmp_path / checkpoint)
    assert caplog.records == []


def test_functions_and_services_that_forget_it_too_add_no_second_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Forgets(MapFunction):
        def setup(self) -> None:
            self.file = Path("/nothing/here").open()  # noqa: SIM115 - cleanup() closes it

        def execute(self, record: Any) -> Any:
            return record

        def cleanup(self) -> None:
            self.file.close()

    class ForgetsToo(BaseService):
        setup, cleanup = Forgets.setup, Forgets.cleanup

    env = LocalEnvironment("function")
    env.from_collection([1]).map(Forgets)
    with pytest.raises(FileNotFoundError):
        env.submit()
    env = LocalEnvironment("service")
    env.register_service("forgets", ForgetsToo)
    env.from_collection([1]).print()
    with pytest.raises(FileNotFoundError):
        env.submit()
    assert caplog.records == []


@pytest.mark.parametrize("sink", [JSONLSink, ParquetSink])
def test_an_output_that_was_deleted_is_said_with_the_way_out(job: Job, sink: Any) -> None:
    job.sink = sink
    job.submit()
    job.submit()
    if sink is JSONLSink:
        job.output.unlink()
    else:
        shutil.rmtree(job.output)
    with pytest.raises(CheckpointError, match=r"all is done, but .*out.jsonl is not there; bring"):
        job.submit()
    shutil.rmtree(job.checkpoint)
    job.submit()
    assert job.output.exists()


# -- the services ----------------------------------------------------------------------------------


def answers(
    folder: Path, registry: Path, *, stop: bool = False, **config: Any
) -> list[dict[str, Any]]:
    """Ask a service about each line, on a checkpoint in ``folder``."""

    def work(record: dict[str, Any]) -> dict[str, Any]:
        if stop and record["prompt"] == "three":
            raise OSError("the power is cut")
        return record

    source = folder / "in.jsonl"
    if not source.exists():
        source.write_text("".join(f'{{"prompt": "{n}"}}\n' for n in ["one", "two", "three"]))
    env = LocalEnvironment("answers")
    config = {"model_id": "test/a", "model_root": registry, "sampling": {"max_tokens": 3}} | config
    register_vllm_service(env, config=config, engine_factory=EchoEngine)
    stream = env.from_source(JSONLSource, source).map(VLLMServiceGenerator).map(work)
    stream.sink(JSONLSink, folder / "out.jsonl")
    env.submit(checkpoint=folder / "checkpoint")
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        model = write_echo_model(tmp_path / name)
        (model / "README.md").write_text(name)
        import_model(f"test/{name}", model, root=tmp_path / "registry")
    return tmp_path / "registry"


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": (
        {"sampling": {"max_tokens": 3, "temperature": 0.7}},
        "service 'vllm_service' has sampling temperature 0.7, not None",
    ),
    "tokens": (
        {"sampling": {"max_tokens": 4}},
        "service 'vllm_service' has sampling max_tokens 4, not 3",
    ),
    "model": ({"model_id": "test/b"}, "service 'vllm_service' has model 'test/b', not 'test/a'"),
    "embedding model": (
        {"embedding_model_id": "test/b"},
        "service 'vllm_service' has embedding model 'test/b', not 'the text model'",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("state", ["complete", "stopped"])
def test_another_model_or_sampling_is_refused(
    tmp_path: Path, registry: Path, what: str, state: str
) -> None:
    if state == "complete":
        answers(tmp_path, registry)
    else:
        with pytest.raises(OSError, match="the power is cut"):
            answers(tmp_path, registry, stop=True)
    config, message = CHANGES[what]
    with pytest.raises(ServiceChangedError, match=message):
        answers(tmp_path, registry, **config)
    assert [record["generated"] for record in answers(tmp_path, registry)] == [
        "one",
        "two",
        "three",
    ]


def test_another_commit_of_the_model_is_refused(tmp_path: Path, registry: Path) -> None:
    with pytest.raises(OSError, match="the power is cut"):
        answers(tmp_path, registry, stop=True)
    model = write_echo_model(tmp_path / "a")
    (model / "README.md").write_text("changed")
    import_model("test/a", model, root=registry)
    with pytest.raises(ServiceChangedError, match=r"service 'vllm_service' has commit '.*, not '"):
        answers(tmp_path, registry)


def test_engine_options_may_change(tmp_path: Path, registry: Path) -> None:
    with pytest.raises(OSError, match="the power is cut"):
        answers(tmp_path, registry, stop=True)
    assert len(answers(tmp_path, registry, engine={"max_num_seqs": 7})) == 3


class Says(BaseService):
    """Knows its identity when it is open, as one that downloads its model then."""

    opened: ClassVar[list[str]] = []

    def __init__(self, commit: str) -> None:
        self.commit, self.known = commit, False

    def setup(self) -> None:
        self.opened.append(self.commit)
        self.known = True

    def checkpoint_identity(self) -> dict[str, Any]:
        return {"commit": self.commit if self.known else None}

    def process(self, payload: Any) -> Any:
        return payload


def test_what_is_known_only_when_it_is_open_is_compared_then(job: Job) -> None:
    def submit(commit: str) -> None:
        env = LocalEnvironment("says")
        env.register_service("says", Says, commit)
        env.from_source(JSONLSource, job.source).map(job.work).sink(JSONLSink, job.output)
        env.submit(checkpoint=job.checkpoint)

    job.stop_at = 5
    with pytest.raises(OSError, match="the power is cut"):
        submit("a")
    job.stop_at = None
    for _ in range(2):
        with pytest.raises(ServiceChangedError, match="service 'says' has commit 'b', not 'a'"):
            submit("b")
    submit("a")
    assert job.ids == [*range(10)]
    assert Says.opened == ["a", "b", "b", "a"]
