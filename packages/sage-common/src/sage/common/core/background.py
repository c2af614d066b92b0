"""in_background: a call that must hold up neither its caller nor the interpreter's end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any


def in_background(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Run a call on a daemon thread of its own, with its caller's context; return its Future.

    For what is rare and may take long: a model to download, to load, to train. It cannot be
    cancelled.
    """
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    context = copy_context()

    def run() -> None:
        try:
            result = context.run(function, *args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=f"sage-{function.__name__}", daemon=True).start()
    return future
