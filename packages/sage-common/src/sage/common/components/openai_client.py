"""Clients of OpenAI-compatible endpoints. The only module that imports openai."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sage.common.components.endpoint_answer import retry_after
from sage.common.components.endpoint_error import EndpointError
from sage.common.core.errors import PackageNotInstalledError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI


_ADDRESS = re.compile(r"https?://[^\s/?#][^\s]*")


def openai_client(
    *, base_url: str | None = None, api_key: str | None = None, **options: Any
) -> OpenAI:
    """Return the official client of an endpoint; close it when done.

    Args:
        base_url: such as ``"http://localhost:8000/v1"``; None reads ``OPENAI_BASE_URL``, and
            without that means OpenAI's own.
        api_key: None reads ``OPENAI_API_KEY``. Servers that want no key take any string.
        options: of the client itself, such as ``timeout`` (seconds) and ``max_retries``.

    Raises:
        PackageNotInstalledError: there is no ``openai`` in this Python.
        ValueError: the address is none, or the key: one was not given and none is in the
            environment, or it has what a header cannot hold.
    """
    client: OpenAI = _make("OpenAI", base_url, api_key, options)
    return client


def async_openai_client(
    *, base_url: str | None = None, api_key: str | None = None, **options: Any
) -> AsyncOpenAI:
    """Return the official asynchronous client; as ``openai_client``.

    It opens no more connections than this process may open files; more requests wait for one.
    """
    client: AsyncOpenAI = _make("AsyncOpenAI", base_url, api_key, options)
    return client


@contextmanager
def endpoint_errors() -> Iterator[None]:
    """Raise what the clients raise for a failed request as an EndpointError."""
    import openai

    try:
        yield
    except openai.APIError as error:
        status = getattr(error, "status_code", None)
        body = error.body if isinstance(error.body, dict) else {}
        reason = str(body.get("message") or error.__cause__ or error.message)
        url = str(error.request.url)
        response = getattr(error, "response", None)
        again = None if response is None else retry_after(response.headers)
        raise EndpointError(url, reason, status, again) from error


def _check_address(base_url: object) -> None:
    """Raise ValueError for what no request can be sent to; it would be tried again and again."""
    address = os.environ.get("OPENAI_BASE_URL") if base_url is None else base_url
    if address is None or (isinstance(address, str) and _ADDRESS.fullmatch(address)):
        return
    name = "OPENAI_BASE_URL" if base_url is None else "base_url"
    raise ValueError(
        f"{name} must be an address such as 'http://localhost:8000/v1', not {address!r}"
    )


def _check_key(api_key: object) -> None:
    """Raise ValueError for a key that no header can hold, without showing it."""
    key = os.environ.get("OPENAI_API_KEY") if api_key is None else api_key
    if isinstance(key, str) and not (key.isascii() and key.isprintable() and key == key.strip()):
        name = "OPENAI_API_KEY" if api_key is None else "api_key"
        raise ValueError(
            f"{name} has a blank or a line at an end, or a letter that no header can hold; "
            f"strip() what was read from a file"
        )


def _make(kind: str, base_url: str | None, api_key: str | None, options: dict[str, Any]) -> Any:
    _check_address(base_url)
    _check_key(api_key)
    try:
        import openai
    except ImportError as error:
        raise PackageNotInstalledError("openai", "isage-common[openai]", str(error)) from error
    if kind == "AsyncOpenAI":
        usual = openai.DEFAULT_CONNECTION_LIMITS
        limits = type(usual)(
            max_connections=min(usual.max_connections or _most_connections(), _most_connections()),
            max_keepalive_connections=usual.max_keepalive_connections,
        )
        options = {"http_client": openai.DefaultAsyncHttpxClient(limits=limits), **options}
    try:
        return getattr(openai, kind)(base_url=base_url, api_key=api_key, **options)
    except openai.OpenAIError as error:  # all that the constructor raises it for is a missing key
        raise ValueError(
            "no API key for the OpenAI-compatible endpoint: pass api_key= or set OPENAI_API_KEY; "
            "a server that wants no key takes any string"
        ) from error


def _most_connections() -> int:
    """Return how many connections leave files enough for all else that this process opens."""
    files, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(files // 2, files - 128)
