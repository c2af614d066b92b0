"""What the model registry costs: a look at 1,000 models, and a download beside the plain client.

`python benchmarks/registry.py` prints both and exits with 1 if a target is missed. The download is
compared with `snapshot_download` followed by sha256 of every file, in one run against one hub on
this machine, taking turns. Every figure is the best of its runs: whatever else the machine does can
only add to it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

TESTS = Path(__file__).parents[1] / "packages" / "sage-common" / "tests" / "model_registry"
sys.path.insert(0, str(TESTS))

from local_hub import LocalHub  # noqa: E402 - needs the path above
from model_files import safetensors  # noqa: E402 - needs the path above

MODEL = "benchmark/model"
SHARDS, SHARD_BYTES, ROUNDS = 4, 96_000_000, 5
SHOW_TARGET, DOWNLOAD_TARGET = 0.300, 0.9

PLAIN = """
import hashlib, sys, time
from pathlib import Path
from huggingface_hub import snapshot_download
start = time.perf_counter()
folder = snapshot_download(sys.argv[1], local_dir=sys.argv[2])
for path in Path(folder).glob("*"):
    if path.is_file():
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
print(time.perf_counter() - start)
"""
OURS = """
import sys, time
import huggingface_hub
from huggingface_hub import HfApi, snapshot_download  # imported before the clock, as above
from sage.common.model_registry import download_model
start = time.perf_counter()
download_model(sys.argv[1], root=sys.argv[2], progress=False)
print(time.perf_counter() - start)
"""


def main() -> int:
    """Run both and print a table."""
    with tempfile.TemporaryDirectory() as scratch:
        show = time_show(Path(scratch) / "many")
        plain, ours = time_downloads(Path(scratch))
    megabytes = SHARDS * SHARD_BYTES / 1e6
    ratio = plain / ours
    print(f"{'what':<52}{'measured':>12}{'target':>12}")
    print(
        f"{'sage llm model show, 1,000 models, whole process':<52}{show:>10.3f} s{SHOW_TARGET:>9} s"
    )
    print(f"{f'snapshot_download + sha256, {megabytes:.0f} MB':<52}{megabytes / plain:>7.0f} MB/s")
    print(f"{f'download_model, {megabytes:.0f} MB':<52}{megabytes / ours:>7.0f} MB/s")
    print(
        f"{'download_model : snapshot_download + sha256':<52}{ratio:>10.2f} x{DOWNLOAD_TARGET:>9} x"
    )
    return 0 if show < SHOW_TARGET and ratio >= DOWNLOAD_TARGET else 1


def time_show(root: Path) -> float:
    """Seconds from start to exit of `sage llm model show`, the best of some runs."""
    write_registry(root, count=1_000)
    command = [sys.executable, "-c", "from sage.tools.cli.main import main; main()"]
    environment = clean_environment() | {"SAGE_VLLM_MODEL_ROOT": str(root)}

    def once() -> float:
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "llm", "model", "show"], env=environment, capture_output=True, check=True
        )
        seconds = time.perf_counter() - start
        if done.stdout.count(b"\n") != 1_001:
            raise RuntimeError("it did not show 1,000 models")
        return seconds

    once()  # writes the byte code that an installation has
    return min(once() for _ in range(9))


def write_registry(root: Path, *, count: int) -> None:
    """Make a registry of empty models with twelve files each in their records."""
    shards = [f"model-{n:05}-of-00008.safetensors" for n in range(1, 9)]
    small = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    files = {name: {"size": 10**9, "sha256": "0" * 64} for name in shards}
    files |= {name: {"size": 1_000, "git_sha1": "0" * 40} for name in small}
    entries = []
    for number in range(count):
        model_id, commit = f"owner-{number % 50}/model-{number}", f"{number:040x}"
        (root / model_id / commit).mkdir(parents=True)
        entries.append(
            {
                "model_id": model_id,
                "revision": "main",
                "commit": commit,
                "path": f"{model_id}/{commit}",
                "size_bytes": 8 * 10**9,
                "last_used": datetime.now(tz=UTC).isoformat(),
                "tags": {"type": "text", "parameters": 4 * 10**9, "dtype": "bfloat16"},
                "files": files,
            }
        )
    (root / "metadata.json").write_text(json.dumps({"version": 1, "models": entries}))


def time_downloads(scratch: Path) -> tuple[float, float]:
    """Seconds for the plain client and for ours, each the best of its turns."""
    files = {f"model-{n}.safetensors": safetensors(SHARD_BYTES, seed=n) for n in range(SHARDS)}
    times: dict[str, list[float]] = {PLAIN: [], OURS: []}
    with LocalHub() as hub:
        hub.add_model(MODEL, {"config.json": b"{}", **files})
        for turn in range(ROUNDS):
            for code, found in times.items():
                with tempfile.TemporaryDirectory(dir=scratch) as target:
                    done = subprocess.run(
                        [sys.executable, "-c", code, MODEL, target],
                        env=hub.environment(scratch / "hf-home"),
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                if turn:  # the first one fills caches
                    found.append(float(done.stdout))
    return min(times[PLAIN]), min(times[OURS])


def clean_environment() -> dict[str, str]:
    """Return the environment without what would keep byte code from being written."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


if __name__ == "__main__":
    sys.exit(main())
