"""What the tests of several packages share: tiny models, the demo model, a service."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import write_echo_model
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import import_model
from sage.kernel.api import LocalEnvironment, RayEnvironment

CHAT_MODEL = "test/tiny-chat"
BASE_MODEL = "test/tiny-base"  # without a chat template
ECHO_MODEL = "test/echo"  # for the EchoEngine alone
_WORKER = os.environ.get("PYTEST_XDIST_WORKER")
_ON_CLUSTER = ("sage-kernel", "sage-libs")  # packages whose tests share a cluster
_clusters: list[Any] = []  # the one that runs, if one does


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes a folder by calling another, once for all processes that run tests."""

    def made(name: str, make: Callable[[Path], None]) -> Path:
        base = tmp_path_factory.getbasetemp()
        folder = (base.parent if _WORKER else base) / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                unfinished = folder.with_suffix(".unfinished")
                unfinished.mkdir(exist_ok=True)
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return made


@pytest.fixture(scope="session", autouse=True)
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder for all that the tests start: the one at home is the user's."""
    folder = tmp_path_factory.mktemp("run")
    os.environ["SAGE_RUN_ROOT"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def programs_as_from_a_terminal() -> None:
    """Have the programs that tests start obey signals, and compile a module once for all of them.

    A shell that runs the tests in the background has all that it starts ignore Ctrl-C, and `nohup`
    the end of the terminal. What is handled here is not ignored there. Of two processes that run
    tests at once each has a session of its own: tests look at all that theirs has left.
    """
    if _WORKER:
        os.setsid()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two random models of 0.2 M parameters and one without weights."""
    folder = tmp_path_factory.mktemp("models")
    root = folder / "registry"
    import_model(CHAT_MODEL, write_tiny_model(folder / "chat"), root=root)
    base = write_tiny_model(folder / "base", seed=1, chat_template=False)
    import_model(BASE_MODEL, base, root=root)
    import_model(ECHO_MODEL, write_echo_model(folder / "echo"), root=root)
    return root


@pytest.fixture(scope="session")
def without_tuning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the front of a program's path: it then finds no backend of isage-tuning."""
    folder = tmp_path_factory.mktemp("without")
    hides = folder / "isage_tuning-1.0.0.dist-info"
    hides.mkdir()
    (hides / "METADATA").write_text("Metadata-Version: 2.1\nName: isage-tuning\nVersion: 1.0.0\n")
    return folder


@pytest.fixture(scope="session")
def first_run(
    made_once: Callable[..., Path],
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """What the first command of the quick start says to someone who has no model, and its registry.

    It trains in a process of its own, so that the memory is given back.
    """

    def run(folder: Path) -> None:
        program = "from sage.tools.cli.main import main; main()"
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                "llm",
                "run",
                "--prompt",
                "What is the capital of France?",
            ],
            env={**os.environ, "SAGE_VLLM_MODEL_ROOT": str(folder / "registry")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        (folder / "done").write_bytes(pickle.dumps(done))

    folder = made_once("first", run)
    return folder / "registry", pickle.loads((folder / "done").read_bytes())


@pytest.fixture(scope="session")
def demo_root(first_run: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """The registry that the first run leaves."""
    root, done = first_run
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def session_members() -> Callable[[int], list[str]]:
    """A function that returns the command lines of a session's processes that are alive."""

    def members(session: int) -> list[str]:
        alive = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                command = (stat.parent / "cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # One without a command line has given back its memory: it is at its very end.
            if int(fields[3]) == session and fields[0] != "Z" and command:
                alive.append(command)
        return alive

    return members


@pytest.fixture
def engine_processes() -> Callable[[], list[int]]:
    """A function that returns the ids of the engine processes that this one started."""

    def find() -> list[int]:
        found = []
        for process in psutil.Process().children(recursive=True):  # forks of the fork server
            with suppress(psutil.NoSuchProcess):
                if process.name().startswith("VLLM::Engine"):
                    found.append(process.pid)
        return found

    return find


@pytest.fixture(scope="module")
def service(model_root: Path) -> Iterator[VLLMService]:
    """A service on a real engine in this process.

    In float32: in the type of the model's weights two tokens may be equally likely, and which one
    is chosen then depends on what else is in the batch.
    """
    config = {
        "model_id": CHAT_MODEL,
        "model_root": model_root,
        "engine": {"max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20, "dtype": "float32"},
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    with VLLMService(config) as opened:
        yield opened


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """An empty folder by a name that is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def ray_cluster(pytestconfig: pytest.Config) -> Any:
    """A Ray cluster of two machines, which are this one, that the tests of this process share.

    Each has four processors and two GPUs, as far as Ray knows. Its processes can import the tests.
    """
    if _clusters:
        return _clusters[0]
    import ray
    from ray.cluster_utils import Cluster

    root = pytestconfig.rootpath
    helpers = root / "packages" / "sage-kernel" / "tests" / "cluster"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{helpers}{os.pathsep}{root}")
        machine = {"num_cpus": 4, "num_gpus": 2, "object_store_memory": 150 << 20}
        head = {**machine, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(**machine)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    _clusters.append(cluster)
    return cluster


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the cluster before tests that have no use for it: some have their own."""
    if nextitem is not None and {*_ON_CLUSTER} & {*nextitem.path.parts}:
        return
    while _clusters:
        import ray

        ray.shutdown()
        _clusters.pop().shutdown()


@pytest.fixture(params=["local", "ray"])
def each_environment(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> type[LocalEnvironment] | type[RayEnvironment]:
    """The kind of environment that a test runs in: it runs twice, the second time on a cluster.

    The LocalEnvironment of the test's module is a RayEnvironment then. Nothing else of it changes,
    as nothing else of a program has to.
    """
    if request.param == "local":
        return LocalEnvironment
    request.getfixturevalue("ray_cluster")
    monkeypatch.setattr(request.module, "LocalEnvironment", RayEnvironment)
    return RayEnvironment
