"""The parts of a message's content: texts, and the pictures between them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sage.common.components.sage_vllm.errors import InvalidInputError, InvalidRequestError
from sage.common.components.sage_vllm.requests.media.image_source import ImageSource
from sage.common.components.sage_vllm.requests.media.media_policy import MediaPolicy
from sage.common.components.sage_vllm.tokens import TokenIds

_PASS = (
    "pass a string, or a list of {'type': 'text', 'text': ...}, {'type': 'image', 'image': a path, "
    "bytes or a PIL image} and {'type': 'image_url', 'image_url': {'url': ...}}"
)


def check_content(content: Any, which: str) -> None:
    """Raise InvalidInputError for what is no content of a message."""
    if content is None or isinstance(content, str):
        return  # None: an assistant's turn that only calls tools
    where, wrong = "", content
    if isinstance(content, list):
        bad = [place for place, part in enumerate(content) if not _is_part(part)]
        if not bad:
            return
        where, wrong = f"part {bad[0]} is ", _shown(content[bad[0]])
    raise InvalidInputError(
        content,
        f"{which} has a message whose content is not text, and no list of texts and pictures: "
        f"{where}{' '.join(repr(wrong).split()):.200}",
        hint=_PASS,
    )


def no_images(model_id: str, which: str) -> InvalidRequestError:
    """Return what is raised for pictures that a model does not take."""
    return InvalidRequestError(
        model_id,
        f"{which} has pictures, and {model_id!r} takes texts alone",
        hint="use a model that sees, or leave the pictures out",
    )


def has_images(prompt: Any) -> bool:
    """Whether a prompt is a conversation with pictures."""
    return next(_images(prompt), None) is not None


def with_sources(messages: Any, policy: MediaPolicy) -> Any:
    """Return a conversation whose pictures are ImageSources, which the policy holds for."""

    def source(part: Mapping[str, Any]) -> Mapping[str, Any]:
        if part["type"] == "image":
            image = part["image"]
            if isinstance(image, ImageSource):  # of a conversation that goes on
                return part
            return {**part, "image": ImageSource(image, policy)}
        address = part["image_url"]
        url = address["url"] if isinstance(address, Mapping) else address
        return {"type": "image", "image": ImageSource(url, policy, is_address=True)}

    return replace_images(messages, source)


def replace_images(
    messages: Sequence[Mapping[str, Any]], replace: Callable[[Mapping[str, Any]], Any]
) -> list[Mapping[str, Any]]:
    """Return a conversation in which each part that is a picture is replaced."""
    return [
        {
            **message,
            "content": [replace(part) if _is_image(part) else part for part in message["content"]],
        }
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def read_images(prompt: Any) -> None:
    """Read each picture of a prompt and forget it; raises what is wrong with one."""
    for part in _images(prompt):
        part["image"].read()


def content_text(content: Any) -> str:
    """Return the text of a content, with a word for each picture."""
    if not isinstance(content, list):
        return str(content)
    return "\n".join(part["text"] if part["type"] == "text" else _name(part) for part in content)


def _images(prompt: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(prompt, str | TokenIds):
        return
    for message in prompt:
        content = message.get("content")
        if isinstance(content, list):
            yield from filter(_is_image, content)


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in ("image", "image_url")


def _is_part(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return False
    match part.get("type"):
        case "text":
            return isinstance(part.get("text"), str)
        case "image":
            return _is_picture(part.get("image"))
        case "image_url":
            address: Any = part.get("image_url")
            return isinstance(address["url"] if _has_url(address) else address, str)
        case _:
            return False


def _has_url(address: Any) -> bool:
    return isinstance(address, Mapping) and "url" in address


def _is_picture(image: Any) -> bool:
    if isinstance(image, str | os.PathLike | bytes | ImageSource):
        return bool(image) or not isinstance(image, str | bytes)
    pillow = sys.modules.get("PIL.Image")  # whoever has such an image has imported it
    return pillow is not None and isinstance(image, pillow.Image)


def _name(part: Mapping[str, Any]) -> str:
    image = part.get("image", part.get("image_url"))
    return f"<{image}>" if isinstance(image, str | os.PathLike | ImageSource) else "<image>"


def _shown(part: Any) -> Any:
    if isinstance(part, Mapping) and isinstance(part.get("image"), bytes):
        return {**part, "image": f"{len(part['image'])} bytes"}
    return part
