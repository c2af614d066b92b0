"""The folder of an engine's sockets: private, and gone with whoever has it, however that ends."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.host.socket_folder import (
    VARIABLE,
    SocketFolder,
    remove_abandoned,
)

HOLDER = """
import sys
from sage.common.components.sage_vllm.host.socket_folder import SocketFolder
folder = SocketFolder()
print(folder.path, flush=True)
if sys.argv[1] == "waits":
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def above(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders are."""
    monkeypatch.setenv(VARIABLE, str(short_folder))
    return short_folder


def test_it_is_private_and_removed_once(above: Path) -> None:
    folder = SocketFolder()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert folder.environment == {VARIABLE: str(folder.path)}
    (folder.path / "socket").touch()
    remove_abandoned()
    assert folder.path.exists()
    child = os.fork()
    if child == 0:
        folder.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.path.exists()
    folder.remove()
    folder.remove()
    assert list(above.iterdir()) == []


def test_an_interpreter_that_ends_removes_it_and_the_next_start_that_of_a_killed_one(
    above: Path,
) -> None:
    subprocess.run([sys.executable, "-c", HOLDER, "ends"], check=True, stdout=subprocess.PIPE)
    assert list(above.iterdir()) == []
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, "waits"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        killed = Path(holder.stdout.readline().decode().strip())
        first = SocketFolder()
        assert killed.exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    second = SocketFolder()
    assert sorted(above.iterdir()) == sorted(each.path for each in (first, second))
    first.remove()
    second.remove()


def test_a_process_that_inherits_the_lock_keeps_it(above: Path) -> None:
    folder = SocketFolder()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(folder.fileno(),)) as server:
        folder.let_go()
        remove_abandoned()
        assert folder.path.exists()
        server.kill()
        server.wait()
    remove_abandoned()
    assert list(above.iterdir()) == []


def test_others_folders_and_links_are_left_alone(above: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (above / "sage-engine-link").symlink_to(theirs)
    (above / "sage-engine-file").touch()
    remove_abandoned()
    assert theirs.exists()
    assert len(list(above.iterdir())) == 2


def test_sockets_fit_under_a_long_folder_for_temporary_files(
    above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = above / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv(VARIABLE, str(long))
    folder = SocketFolder()
    assert len(os.fsencode(folder.path)) < 60
    folder.remove()
