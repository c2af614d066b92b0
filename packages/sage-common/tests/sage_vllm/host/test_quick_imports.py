"""No garbage is collected while vLLM is imported, and what that makes is not gone over later."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.host.quick_imports import quick_imports


def test_garbage_is_collected_again_afterwards_but_not_among_what_was_imported() -> None:
    with quick_imports():
        assert not gc.isenabled()
        imported = [[number] for number in range(1000)]
    assert gc.isenabled()
    collected = {id(each) for each in gc.get_objects()}  # which are all that are not frozen
    assert not any(id(each) in collected for each in imported)


def test_an_import_that_fails_leaves_the_collector_as_it_was() -> None:
    with pytest.raises(ImportError), quick_imports():
        raise ImportError
    assert gc.isenabled()


def test_who_has_turned_the_collector_off_keeps_it_off() -> None:
    frozen = gc.get_freeze_count()
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert gc.get_freeze_count() <= frozen  # fewer where a frozen object has ended since


def test_what_is_left_out_is_left_out_for_the_thread_that_says_so_alone(tmp_path: Path) -> None:
    (tmp_path / "needless_package.py").touch()
    script = (
        "import threading\n"
        "from sage.common.components.sage_vllm.host.quick_imports import left_out\n"
        "with left_out('needless_package', 'not needed'):\n"
        "    try:\n"
        "        import needless_package\n"
        "    except ModuleNotFoundError as error:\n"
        "        print(error)\n"
        "    look = lambda: print(__import__('needless_package').__name__)\n"
        "    other = threading.Thread(target=look)\n"
        "    other.start(), other.join()\n"
        "    import needless_package\n"
    )
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.split("\n") == ["not needed", "needless_package", ""]
