"""The roots of SAGE's errors.

SageError
├── ServiceError                      sage.common.service.errors
│   ├── ServiceNotFoundError          (LookupError)
│   ├── ServiceMethodNotFoundError    (AttributeError)
│   ├── ServiceTimeoutError           (TimeoutError)
│   └── ServiceClosedError            (RuntimeError)
├── RecordTimeoutError                (TimeoutError) an asynchronous operator's deadline
├── PackageNotInstalledError          (ImportError) what an optional feature needs
├── EndpointError                     sage.common.components.endpoint_error
├── UnfinishedAnswerError             sage.libs.operators.errors
├── PipelineCancelledError            sage.kernel.runtime.cancelled
├── CheckpointError                   sage.kernel.runtime.checkpoint.errors
├── EngineError                       sage.common.components.sage_vllm.errors
└── ModelRegistryError                sage.common.model_registry.errors
"""

from __future__ import annotations


class SageError(Exception):
    """Base of every error that SAGE raises itself.

    ``retryable`` says whether trying the same thing again can succeed; asynchronous operators
    retry only such errors.
    """

    retryable = False


class RecordTimeoutError(SageError, TimeoutError):
    """An asynchronous operator had no result for a record within its ``timeout``."""

    def __init__(self, operator: str, timeout: float) -> None:
        super().__init__(operator, timeout)
        self.operator = operator
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"operator {self.operator!r} had no result within {self.timeout:g} s; "
            f"raise its timeout= or pass timeout=None to wait without limit"
        )


class PackageNotInstalledError(SageError, ImportError):
    """An optional feature was asked for whose package is not installed; ``extra`` installs it."""

    def __init__(self, package: str, extra: str, reason: str = "") -> None:
        super().__init__(package, extra, reason)
        self.package = package
        self.extra = extra
        self.reason = reason

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.package} is not installed{why}; run: pip install '{self.extra}'"


def nearest(value: str, choices: list[str]) -> str:
    """Return the end of a message about an unknown name: the nearest valid one, else all."""
    from difflib import get_close_matches  # only ever needed on the way to an error

    close = get_close_matches(value, choices, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid: {', '.join(sorted(choices)) or '(none)'}"
