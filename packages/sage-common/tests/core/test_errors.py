from __future__ import annotations

import pickle
from typing import Any

import pytest

from sage.common.core.errors import (
    PackageNotInstalledError,
    RecordTimeoutError,
    SageError,
    nearest,
)
from sage.common.service import (
    ServiceClosedError,
    ServiceMethodNotFoundError,
    ServiceNotFoundError,
    ServiceTimeoutError,
)

ERRORS: list[tuple[SageError, type[Exception]]] = [
    (RecordTimeoutError("map", 1.5), TimeoutError),
    (ServiceNotFoundError("lm", ["llm", "store"]), LookupError),
    (ServiceMethodNotFoundError("llm", "generat", ["embed", "generate"]), AttributeError),
    (ServiceTimeoutError("llm", "generate", 2.0), TimeoutError),
    (ServiceClosedError("llm"), RuntimeError),
    (ServiceClosedError("llm", "it has not been started yet"), RuntimeError),
    (PackageNotInstalledError("openai", "isage-common[openai]"), ImportError),
]


@pytest.mark.parametrize(("error", "kin"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_pickle_with_message_facts_and_builtin_kin(
    error: SageError, kin: type[Exception]
) -> None:
    error.add_note("in operator 'map'")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert isinstance(again, kin)
    assert str(again) == str(error)
    assert again.__notes__ == error.__notes__
    facts: dict[str, Any] = {k: v for k, v in vars(error).items() if not k.startswith("_")}
    assert {k: getattr(again, k) for k in facts} == facts
    assert again.retryable is False


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ERRORS[0][0], "operator 'map' had no result within 1.5 s; raise its timeout= or pass"),
        (ERRORS[1][0], "no service 'lm' is registered; did you mean 'llm'?"),
        (ERRORS[2][0], "service 'llm' has no method 'generat'; did you mean 'generate'?"),
        (ERRORS[3][0], "llm.generate had no result within 2 s and was cancelled; pass a larger"),
        (ERRORS[4][0], "service 'llm' takes no calls: it has been closed"),
        (ERRORS[5][0], "service 'llm' takes no calls: it has not been started yet"),
        (ERRORS[6][0], "openai is not installed; run: pip install 'isage-common[openai]'"),
    ],
)
def test_messages_say_what_failed_and_what_to_do(error: SageError, message: str) -> None:
    assert str(error).startswith(message)


def test_nearest_names_the_closest_or_all() -> None:
    assert nearest("skipp", ["raise", "skip"]) == "did you mean 'skip'?"
    assert nearest("xyz", ["b", "a"]) == "valid: a, b"
    assert nearest("xyz", []) == "valid: (none)"
