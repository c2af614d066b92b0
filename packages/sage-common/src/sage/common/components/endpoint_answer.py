"""What an endpoint's answer says, whatever its status claims."""

from __future__ import annotations

import email.utils
import json
import math
import reprlib
import time
from collections.abc import Mapping
from typing import Any

from sage.common.components.endpoint_error import EndpointError

# What servers and proxies name in place of the status that belongs to it.
_NAMED = {"rate_limit": 429, "overloaded": 503, "unavailable": 503, "internal": 500, "server": 500}


def answer_body(url: str, text: str, what: str) -> dict[str, Any]:
    """Return the JSON object of an answer with status 200.

    Raises EndpointError for an error in its place, with the status that is named there, for what
    is no JSON object, and for half of one; ``what`` names the thing that was asked for.
    """
    try:
        body = json.loads(text)
    except json.JSONDecodeError:
        half = text.lstrip().startswith("{") and not text.rstrip().endswith("}")
        reason = "its answer ends half-way: " if half or not text.strip() else f"no {what} but "
        cut = reason.startswith("its")
        raise EndpointError(url, reason + reprlib.repr(text), 200, cut=cut) from None
    if not isinstance(body, dict):
        raise EndpointError(url, f"no {what} but {reprlib.repr(body)}", 200)
    error = body if body.get("object") == "error" else body.get("error")
    if error:
        facts = error if isinstance(error, Mapping) else {"message": error}
        reason = str(facts.get("message") or reprlib.repr(error))
        raise EndpointError(url, reason, _status(facts))
    return body


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which an answer asks to come again, None if it does not say.

    ``Retry-After`` is in seconds or a date (RFC 9110, 10.2.3); OpenAI's ``retry-after-ms`` is more
    exact.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _status(error: Mapping[str, Any]) -> int:
    for key in ("code", "status", "type"):
        value = error.get(key)
        if isinstance(value, int | str) and str(value).isdecimal():
            if 400 <= int(value) < 600:
                return int(value)
        elif isinstance(value, str):
            for word, status in _NAMED.items():
                if word in value.lower():
                    return status
    return 200
