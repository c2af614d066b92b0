"""What a program prints on standard error because an inline engine is in it: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# torch and transformers are there before SAGE can tell them how much to log.
PROGRAM = """\
import sys
from pathlib import Path
import torch
import transformers
from sage.common.components.sage_vllm.service import VLLMService
hook = sys.excepthook
config = {"model_id": "test/tiny-chat", "model_root": Path(sys.argv[1])}
config["engine"] = {"kv_cache_memory_bytes": 64 << 20}
with VLLMService({**config, "engine_mode": "inline"}) as service:
    print(service.generate({"prompt": "Hello"}, max_tokens=2)[0]["tokens_used"]["completion"])
assert sys.excepthook is hook
assert "ray" not in sys.modules  # with it, a program that ends by Ctrl-C has the status 1, not 130
raise RuntimeError("of the program's own")
"""


def test_an_inline_engine_adds_nothing_to_what_a_program_says(
    model_root: Path, tmp_path: Path
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, script, model_root],
        env={**os.environ, "SAGE_RUN_ROOT": str(tmp_path / "run")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout == "2\n", done.stderr
    assert done.stderr == (
        "Traceback (most recent call last):\n"
        f'  File "{script}", line 13, in <module>\n'
        '    raise RuntimeError("of the program\'s own")\n'
        "RuntimeError: of the program's own\n"
    )
