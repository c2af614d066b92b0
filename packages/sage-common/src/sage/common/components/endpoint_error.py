"""Errors of requests to a model behind HTTP.

EndpointError              (SageError, RuntimeError)  a request failed
└── EndpointBusyError                                 it asks to wait for longer than one would
"""

from __future__ import annotations

from sage.common.core.errors import SageError

_NOT_THE_REQUESTS_FAULT = (408, 409, 429)  # too slow, a conflict, too many requests
_HINTS = {
    None: "is the server running?",
    401: "pass api_key= or set OPENAI_API_KEY",
    404: "check base_url, which mostly ends in /v1, and model",
}


class EndpointError(SageError, RuntimeError):
    """A request failed; ``status`` is None where no answer came.

    ``retry_after`` has the seconds after which the server asks to come again, None where it does
    not say. Retryable where the same request may succeed later: no connection, half an answer
    (``cut``), a server error, too many requests.
    """

    def __init__(
        self,
        url: str,
        reason: str,
        status: int | None = None,
        retry_after: float | None = None,
        *,
        cut: bool = False,
    ) -> None:
        problem = f"no answer from {url}" if status is None else f"{url} answered {status}"
        super().__init__(f"{problem}: {reason}", hint=_HINTS.get(status))
        self.url = url
        self.reason = reason
        self.status = status
        self.retry_after = retry_after
        passing = status is None or status in _NOT_THE_REQUESTS_FAULT or status >= 500
        self.retryable = passing or cut


class EndpointBusyError(EndpointError):
    """A server asks to wait for longer than the ``patience``, in seconds, that there is."""

    def __init__(
        self, url: str, reason: str, status: int | None, retry_after: float | None, patience: float
    ) -> None:
        asks = (
            f"it asks to wait for {retry_after:g} s more, and " if retry_after is not None else ""
        )
        why = f"{reason}; {asks}patience= ends {patience:g} s after its first refusal"
        super().__init__(url, why, status, retry_after)
        self.reason = reason
        self.patience = patience
        self.retryable = False  # all the patience there was went into trying again
