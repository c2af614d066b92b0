"""A service that downloads while it serves, and goes over to what it has downloaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from local_hub import LocalHub

from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model

MODEL = "owner/chat"

SERVE = """
import json, sys, threading
from pathlib import Path
from sage.common.components.sage_vllm.service import VLLMService

if __name__ == "__main__":
    config = {
        "model_id": "owner/chat", "model_root": Path(sys.argv[1]), "auto_download": True,
        "auto_reload": True, "engine": {"kv_cache_memory_bytes": 64 << 20},
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    with VLLMService(config) as service:
        first = service.generate("Hello")[0]["text"]
        print("serving", flush=True)
        sys.stdin.readline()  # until there is something new
        download = service.process_async(
            {"task": "download_model", "options": {"model_id": "owner/chat"}}
        )
        served = 0
        while not download.done():
            service.generate("Hello")
            served += 1
        record = download.result()
        second = service.generate("Hello")[0]["text"]
        print(json.dumps({
            "first": first, "second": second, "served": served, "commit": record["commit"],
            "state": service.health()["state"],
        }))
"""


def test_a_newer_revision_is_downloaded_while_it_serves_and_then_served(
    root: Path, tmp_path: Path
) -> None:
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    with LocalHub(bytes_per_second=80_000) as hub:
        hub.add_model(MODEL, _files(tmp_path / "old", seed=1))
        with subprocess.Popen(
            [sys.executable, str(script), str(root)],
            env=hub.environment(tmp_path / "hf-home"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            newer = hub.add_model(MODEL, _files(tmp_path / "new", seed=2))
            out, _ = process.communicate("go\n", timeout=120)
    answer = json.loads(out)
    assert answer["commit"] == newer
    assert answer["first"] != answer["second"]
    assert answer["served"] > 5
    assert answer["state"] == "ready"


def _files(folder: Path, *, seed: int) -> dict[str, bytes]:
    write_tiny_model(folder, seed=seed)
    return {path.name: path.read_bytes() for path in folder.iterdir()}
