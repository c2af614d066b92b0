"""EndpointError: what can go wrong with a request to a model behind HTTP."""

from __future__ import annotations

from sage.common.core.errors import SageError

_NOT_THE_REQUESTS_FAULT = (408, 409, 429)  # too slow, a conflict, too many requests
_HINTS = {
    401: "; pass api_key= or set OPENAI_API_KEY",
    404: "; check base_url, which mostly ends in /v1, and model",
}


class EndpointError(SageError, RuntimeError):
    """A request failed; ``status`` is None where no answer came.

    Retryable where the same request may succeed later: no connection, a server error, too many
    requests.
    """

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        super().__init__(url, reason, status)
        self.url = url
        self.reason = reason
        self.status = status
        self.retryable = status is None or status in _NOT_THE_REQUESTS_FAULT or status >= 500

    def __str__(self) -> str:
        if self.status is None:
            return f"no answer from {self.url}: {self.reason}; is the server running?"
        return f"{self.url} answered {self.status}: {self.reason}{_HINTS.get(self.status, '')}"
