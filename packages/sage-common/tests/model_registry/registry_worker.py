"""A process of its own that makes one call to the registry and prints what came of it as JSON.

Argument: {"call": name, "args": [...], "kwargs": {...}, "set": {"module:NAME": value}}. With
SAGE_TEST_KILL_AT set, the process kills itself where publishing a model calls that function.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from types import FrameType

from sage.common.model_registry import vllm_registry


def kill_at(name: str) -> None:
    """Die on the first call of `name` from the module that publishes."""

    def watch(frame: FrameType, event: str, _: object) -> None:
        caller = frame.f_back
        if frame.f_code.co_name == name and caller and caller.f_code.co_name == "publish":
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)


def main() -> None:
    """Make the call."""
    if "SAGE_TEST_KILL_AT" in os.environ:
        kill_at(os.environ["SAGE_TEST_KILL_AT"])
    order = json.loads(sys.argv[1])
    for target, value in order.get("set", {}).items():
        module, name = target.split(":")
        setattr(importlib.import_module(module), name, value)
    try:
        result = getattr(vllm_registry, order["call"])(*order["args"], **order["kwargs"])
    except vllm_registry.ModelRegistryError as error:
        answer = {"error": type(error).__name__, "text": str(error), "hint": error.hint}
    else:
        answer = {"result": repr(result), "commit": getattr(result, "commit", "")}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
