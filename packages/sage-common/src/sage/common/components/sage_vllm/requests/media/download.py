"""download: fetches a picture from a host that the configuration names."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.components.sage_vllm.requests.media.media_policy import MediaPolicy

_SECONDS = 20.0  # without a byte


def download(address: str, policy: MediaPolicy, most_bytes: int) -> bytes:
    """Return what an address has; raises InvalidInputError.

    Each host that it leads to must be one of the policy's: a redirection must not reach others.
    """
    policy.check_host(urlsplit(address).hostname, address)
    opener = urllib.request.build_opener(_CheckedRedirects(policy))
    try:
        with opener.open(address, timeout=_SECONDS) as answer:
            data: bytes = answer.read(most_bytes + 1)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        problem = f"the picture {address!r} cannot be fetched: {error}"
        raise InvalidInputError(address, problem) from error
    return data


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, policy: MediaPolicy) -> None:
        self._policy = policy

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow to a host of the policy's alone."""
        parts = urlsplit(newurl)
        if parts.scheme not in ("http", "https"):
            raise InvalidInputError(newurl, f"{req.full_url!r} leads to {newurl!r}")
        self._policy.check_host(parts.hostname, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
