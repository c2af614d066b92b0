"""Memory is flat in the number of records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = """
import sys
from pathlib import Path

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.kernel.api import LocalEnvironment
from sage.libs.operators.vllm_service import VLLMServiceGenerator

records, root, order = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
env = LocalEnvironment("memory")
config = {"model_id": "test/echo", "model_root": root}
env.register_service("vllm_service", VLLMService, config, engine_factory=EchoEngine)
through = 0

def count(record):
    global through
    through += 1

def source():
    for number in range(records):
        yield {"id": number, "prompt": f"{number} " + "word" * 4000}  # 16 KB

stream = env.from_source(source).map(
    VLLMServiceGenerator, prefix_order=order, prefix_window_bytes=8_000_000
)
stream.map(dict, parallelism=2).sink(count)
env.submit()
status = Path("/proc/self/status").read_text()
peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
print(through, peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("order", ["auto", "on"])  # "on" holds 8 MB of prompts, and answers as long
def test_twenty_thousand_records_take_no_more_memory_than_two_thousand(
    model_root: Path, order: str
) -> None:
    peaks = {}
    for records in (2_000, 20_000):
        command = [sys.executable, "-c", PIPELINE, str(records), str(model_root), order]
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
        through, peak_kib = map(int, out.stdout.split())
        assert through == records
        peaks[records] = peak_kib / 1024
    assert peaks[20_000] - peaks[2_000] < 50  # MB; 18,000 records more are 280
