"""What a worker leaves to the process that serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AUTOGROUP = Path("/proc/self/autogroup")
SHOWN = """
import os
from pathlib import Path
from sage.tuning.worker import _give_way

_give_way(idle={idle})
print(os.sched_getscheduler(0) == os.SCHED_IDLE, os.getpriority(os.PRIO_PROCESS, 0) >= 5)
print(Path("/proc/self/autogroup").read_text().split()[-1])
"""


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel knows no sessions of processes")
@pytest.mark.parametrize(
    ("idle", "said"), [(True, ["True", "9"]), (False, ["True", "5"])], ids=["idle", "low"]
)
def test_a_worker_gives_way_to_other_sessions_too(*, idle: bool, said: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOWN.format(idle=idle)],
        stdout=subprocess.PIPE,
        start_new_session=True,  # as a job's worker is started
        text=True,
        check=True,
    )
    scheduled, low, session = done.stdout.split()
    assert [scheduled if idle else low, session] == said
