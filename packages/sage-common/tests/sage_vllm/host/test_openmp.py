"""How long OpenMP's threads spin in an engine, as libgomp itself says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from sage.common.components.sage_vllm.service import VLLMService

if __name__ == "__main__":
    before = dict(os.environ)
    config = {
        "model_id": "test/tiny-chat", "model_root": Path(sys.argv[1]), "engine_mode": sys.argv[2],
        "engine": {"kv_cache_memory_bytes": 64 << 20},
    }
    with VLLMService(config) as service:
        assert service.generate("Hello", max_tokens=2)
        for name in ("GOMP_SPINCOUNT", "LD_PRELOAD"):
            assert os.environ.get(name) == before.get(name), name
"""


@pytest.mark.parametrize(
    ("mode", "chosen", "turns"),
    [
        ("inline", {}, "10000"),
        ("process", {}, "10000"),
        ("inline", {"GOMP_SPINCOUNT": "77"}, "77"),
        ("inline", {"OMP_WAIT_POLICY": "passive"}, "0"),
    ],
)
def test_it_is_bounded_unless_the_user_has_chosen(
    model_root: Path, tmp_path: Path, mode: str, chosen: dict[str, str], turns: str
) -> None:
    script = tmp_path / "engine.py"
    script.write_text(SCRIPT)
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "LD_PRELOAD")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    run = subprocess.run(
        [sys.executable, str(script), str(model_root), mode],
        env={**inherited, **chosen, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "Triton not available" not in run.stderr  # what vLLM and torch tell each other
    # torch's is the first; other libraries bring a libgomp of their own, which engines do not use.
    said = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", run.stderr)
    assert said[0] == turns
    assert said.count(turns) >= (1 if mode == "inline" else 2)  # the fork server has torch's too
