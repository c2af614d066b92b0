"""From what the hub's client raises to the registry's own errors: one ordered table."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sage.common.model_registry.errors import (
    GatedModelError,
    HubAccessError,
    HubModelNotFoundError,
    HubUnavailableError,
    ModelRegistryError,
    RevisionNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def translating(model_id: str, revision: str, *, token: str | None) -> Iterator[None]:
    """Raise the registry's errors for the client's; a full or read-only disk passes through."""
    try:
        yield
    except ModelRegistryError:
        raise
    except Exception as error:
        translated = _translate(error, model_id, revision, token)
        if translated is None:
            raise
        raise translated from error


def _translate(
    error: BaseException, model_id: str, revision: str, token: str | None
) -> ModelRegistryError | None:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    # The client's HTTP library has changed before; its errors are the base of the client's own.
    transport_error = hub.HfHubHTTPError.__bases__[0]
    match error:
        # Order matters: a gated repository is also a missing one to the client.
        case hub.GatedRepoError():
            return GatedModelError(model_id, endpoint=constants.ENDPOINT)
        case hub.RevisionNotFoundError():
            return RevisionNotFoundError(model_id, revision, on_hub=True)
        case hub.RepositoryNotFoundError():
            return HubModelNotFoundError(model_id)
        case hub.OfflineModeIsEnabled():
            return HubUnavailableError(
                model_id,
                "HF_HUB_OFFLINE is set",
                hint="Unset HF_HUB_OFFLINE, or register a local copy with "
                f"`sage llm model import {model_id} <folder>`.",
            )
        case hub.HfHubHTTPError():
            status = error.response.status_code
            if status in (401, 403):
                return HubAccessError(model_id)
            return HubUnavailableError(model_id, f"it answered with HTTP status {status}")
        case hub.LocalEntryNotFoundError() if error.__cause__ is not None:
            return _translate(error.__cause__, model_id, revision, token)
        case ConnectionError() | TimeoutError() | hub.LocalEntryNotFoundError():
            return HubUnavailableError(model_id, _reason(error, token))
        case _ if isinstance(error, transport_error):
            return HubUnavailableError(model_id, _reason(error, token))
        case OSError() if error.errno is not None:
            return None  # this machine's disk, not the hub
        case OSError() | ValueError() | KeyError() | TypeError() | AttributeError():
            # A cut or overlong body is an OSError without a number; the others are answers that
            # are not the hub's, such as the login page of a network.
            return HubUnavailableError(model_id, _reason(error, token))
    return None


def _reason(error: BaseException, token: str | None) -> str:
    from huggingface_hub import get_token

    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": .")
    for secret in (token, get_token()):
        if secret:
            text = text.replace(secret, "***")
    return text
