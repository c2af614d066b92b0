"""A service records itself, so that another process sees what it does, and that it is gone."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.common import kept_record
from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.errors import EngineStartError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.common.core.context import RuntimeContext
from sage.common.run_folder import read_records

MODEL = "test/echo"
OTHER = "test/tiny-chat"
PATIENCE = 60.0
BEAT = 0.1

HOST = """
import sys
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
with VLLMService({"model_id": "test/echo"}, engine_factory=EchoEngine) as service:
    service.generate(["one", "two"])
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGE_RUN_ROOT", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times as many as there are: a pace is that of the last twenty."""
    monkeypatch.setattr(kept_record, "BEAT_SECONDS", BEAT)


def service(model_root: Path, factory: Any = EchoEngine) -> VLLMService:
    return VLLMService({"model_id": MODEL, "model_root": model_root}, engine_factory=factory)


def seen(test: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The one record, as soon as it is as wanted."""
    give_up = time.monotonic() + PATIENCE
    records = read_records()
    while time.monotonic() < give_up:
        if len(records := read_records()) == 1 and test(records[0]):
            return records[0]
        time.sleep(0.02)  # its writer tells nobody
    raise AssertionError(f"not seen: {records}")


def test_its_figures_and_the_model_after_a_switch_are_seen(model_root: Path, root: Path) -> None:
    before = {*threading.enumerate()}  # of services that others have left open
    with service(model_root) as opened:
        opened.generate(["a b c"] * 40)
        record = seen(lambda record: record["requests_done"] == 40)
        assert (record["kind"], record["pid"], record["state"]) == ("service", os.getpid(), "ready")
        assert (record["model_id"], record["engine_mode"]) == (MODEL, "inline")
        assert record["tokens_per_second"] > 0
        opened.switch_model(OTHER)
        record = seen(lambda record: record["model_id"] == OTHER)
        assert record["tokens_per_second"] == 0
    assert read_records() == []
    assert list(root.iterdir()) == []
    writers = [each for each in {*threading.enumerate()} - before if each.name == "sage-record"]
    for writer in writers:  # closing waits two seconds for it, and then goes on
        writer.join(PATIENCE)
        assert not writer.is_alive()


def test_it_is_seen_loading_and_a_failed_load_leaves_nothing(model_root: Path) -> None:
    states = []

    def broken(spec: EngineSpec) -> EchoEngine:
        states.extend(record["state"] for record in read_records())
        raise EngineStartError(spec.model_id, "broken")

    with pytest.raises(EngineStartError, match="broken"):
        service(model_root, broken).open()
    assert states == ["loading"]
    assert read_records() == []


def test_one_of_an_environment_has_the_name_it_is_called_by(model_root: Path) -> None:
    opened = service(model_root)
    opened.ctx = RuntimeContext(name="writer")  # as an environment does
    with opened:
        assert [record["name"] for record in read_records()] == ["writer"]


@pytest.mark.usefixtures("quick_beats")
def test_what_does_not_change_is_not_written_again(model_root: Path, root: Path) -> None:
    with service(model_root) as opened:
        opened.generate("one")
        seen(lambda record: record["requests_done"] == 1 and record["tokens_per_second"] == 0)
        (path,) = root.glob("*.json")
        before = path.stat().st_ino
        time.sleep(4 * BEAT)
        assert path.stat().st_ino == before


@pytest.mark.parametrize("blocked", ["a file is in its place", "full"])
def test_without_a_place_for_the_record_the_service_starts_and_says_so(
    blocked: str,
    model_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "run" if blocked != "full" else Path("/dev/full/run")
    monkeypatch.setenv("SAGE_RUN_ROOT", str(place))
    with caplog.at_level(logging.WARNING), service(model_root) as opened:
        assert opened.generate("one two")[0]["text"] == "one two"
    assert "SAGE_RUN_ROOT" in caplog.text


@pytest.mark.usefixtures("quick_beats")
def test_a_disk_that_fills_up_stops_the_record_and_not_the_service(
    model_root: Path, root: Path
) -> None:
    with service(model_root) as opened:
        seen(lambda record: record["state"] == "ready")
        (path,) = root.glob("*.json")
        path.with_suffix(".new").mkdir()  # no more changes can be written
        opened.generate("one two")
        time.sleep(4 * BEAT)
        assert read_records()[0]["requests_done"] == 0
        path.with_suffix(".new").rmdir()
        seen(lambda record: record["requests_done"] == 1)
    assert list(root.iterdir()) == []


def test_killed_it_is_gone_at_once(model_root: Path) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST],
        env={**os.environ, "SAGE_VLLM_MODEL_ROOT": str(model_root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with host:
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == "open\n"
            record = seen(lambda record: record["requests_done"] == 2)
            assert (record["pid"], record["program"]) == (host.pid, "-c")
        finally:
            host.kill()
    assert read_records() == []
