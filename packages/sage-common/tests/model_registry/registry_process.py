"""The registry, used from processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_hub import LocalHub

MODEL = "owner/name"
RETRY_DELAYS = "sage.common.model_registry.download.transfer:RETRY_DELAYS"
WORKER = Path(__file__).with_name("registry_worker.py")


class Registry:
    """The registry at one root, used from processes of their own against one hub."""

    def __init__(self, hub: LocalHub, root: Path, home: Path) -> None:
        self.hub = hub
        self.root = root
        # The hub is a thread of the tests' process: a pause of the machine is no fault of its.
        patience = {"HF_HUB_DOWNLOAD_TIMEOUT": "60", "HF_HUB_ETAG_TIMEOUT": "60"}
        self.environment = {**hub.environment(home), **patience}

    def start(self, call: str, *args: Any, set: dict[str, Any] | None = None, **kwargs: Any) -> Any:  # noqa: A002 - reads well at the call
        order = {
            "call": call,
            "args": args,
            "kwargs": {"root": str(self.root), **kwargs},
            "set": {
                "sage.common.model_registry.download.transfer:RETRY_DELAYS": [0.0],
                **(set or {}),
            },
        }
        return subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(order)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, call: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return answer_of(self.start(call, *args, **kwargs))

    def download(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.call("download_model", *(args or (MODEL,)), **kwargs)


def answer_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a registry process printed; its whole stderr if it printed nothing."""
    out, err = process.communicate(timeout=120)
    assert out, f"exit {process.returncode}:\n{err}"
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    answer["stderr"] = err
    return answer
