"""What a short command must not import, so that it answers at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "prompt_toolkit",
    "pydantic",
    "rich",
    "huggingface_hub",
    "httpx2",
    "numpy",
    "vllm",
    "torch",
    "asyncio",
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["llm", "model", "show"],
        ["llm", "model", "show", "--model", "owner/name"],
        ["llm", "model", "download", "--help"],
        ["llm", "status"],
        ["llm", "run", "--help"],
        ["llm", "start", "--help"],
        ["llm", "fine-tune", "--help"],
        ["llm", "bench", "--help"],
        ["llm", "doctor", "--help"],
    ],
)
def test_nothing_heavy_is_imported_for_a_short_command(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from sage.tools.cli.main import main\n"
        f"sys.argv = ['sage', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"
