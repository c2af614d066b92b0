"""EndpointPatience: waits for an endpoint that says when to come again."""

from __future__ import annotations

import logging
import random
import threading
import time

from sage.common.components.endpoint_error import EndpointBusyError, EndpointError

logger = logging.getLogger(__name__)

_FIRST_SPREAD = 0.5  # seconds over which those who waited come again
_MOST_SPREAD = 30.0
_LOG_PAUSE = 60.0


class EndpointPatience:
    """One for all requests to an endpoint, which wait together; thread-safe.

    A request asks ``pause`` before it is sent, and says how it ended by ``answered`` or
    ``refused``. A refusal with a Retry-After holds all requests back until then, and a random
    time longer, so that they do not come all at once.

    Args:
        seconds: how long an endpoint may refuse everything; what it refuses afterwards fails.
    """

    def __init__(self, seconds: float) -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            raise ValueError(f"patience must be a number of seconds, 0 or more, not {seconds!r}")
        self._seconds = seconds
        self._lock = threading.Lock()
        self._resume_at = 0.0
        self._spread = 0.0
        self._refused_since: float | None = None
        self._logged_at: float | None = None

    def pause(self) -> float:
        """Return the seconds to wait before a request is sent."""
        with self._lock:
            wait = self._resume_at - time.monotonic()
            if wait <= 0:
                return 0.0
            return wait + random.uniform(0, self._spread)

    def answered(self) -> None:
        """Say that a request was answered: patience begins anew."""
        with self._lock:
            self._refused_since = None

    def refused(self, error: EndpointError, attempts: int) -> None:
        """Take note that the endpoint asks a request to come again, after so many refusals of it.

        Raises the error if the endpoint does not say when, and EndpointBusyError if that is later
        than patience allows.
        """
        if error.retry_after is None or not error.retryable:
            raise error
        now = time.monotonic()
        with self._lock:
            since = now if self._refused_since is None else self._refused_since
            self._refused_since = since
            if now + error.retry_after - since > self._seconds:
                raise EndpointBusyError(
                    error.url, error.reason, error.status, error.retry_after, self._seconds
                ) from error
            self._resume_at = max(self._resume_at, now + error.retry_after)
            doubled = _FIRST_SPREAD * 2 ** min(attempts - 1, 10)
            self._spread = min(_MOST_SPREAD, max(doubled, error.retry_after / 2))
            is_news = self._logged_at is None or now - self._logged_at > _LOG_PAUSE
            if is_news:
                self._logged_at = now
        if is_news:
            logger.warning(
                "%s answered %s (%s) and asks to come again in %g s: requests to it wait, for "
                "%g s at most",
                error.url, error.status, error.reason, error.retry_after, self._seconds,
            )  # fmt: skip
