"""ImageSource: a picture of a prompt, read when an engine is about to need it."""

from __future__ import annotations

import base64
import binascii
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.components.sage_vllm.requests.media.media_policy import MediaPolicy

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded in this process alone: others have Pillow start programs, or are no pictures."""

_BYTES_PER_PIXEL = 4  # a file of more than its pixels would take is none that one reads to the end
_SHOWN = 80  # characters of an address in an error


class ImageSource:
    """A picture: a path, the bytes of a file, a PIL image, or an address.

    It is read as late as possible, and kept no longer than that takes: many prompts may wait.
    """

    def __init__(self, given: Any, policy: MediaPolicy, *, is_address: bool = False) -> None:
        self._given = given
        self._policy = policy
        self._is_address = is_address

    def __str__(self) -> str:
        """Return what tells pictures apart, without reading them."""
        if isinstance(self._given, str | os.PathLike):
            return f"the picture {str(self._given)[:_SHOWN]!r}"
        if isinstance(self._given, bytes):
            return f"a picture of {len(self._given)} bytes"
        return f"a picture of {self._given.width} x {self._given.height} pixels"

    def read(self) -> bytes | Image:
        """Return the bytes of its file, or the PIL image that it is.

        Raises InvalidInputError for what may not be read, is no picture, or has too many pixels.
        """
        given = self._given
        if self._is_address:
            return self._fetched(given)
        if isinstance(given, bytes):
            return self._checked(given)
        if isinstance(given, str | os.PathLike):
            return self._of_file(Path(given).expanduser())
        self._policy.check_size(given.width, given.height, str(self))
        image: Image = given
        return image

    def _fetched(self, address: str) -> bytes:
        scheme, _, rest = address.partition(":")
        match scheme.lower():
            case "data":
                return self._checked(self._of_data(rest))
            case "file":
                parts = urlsplit(address)
                if parts.netloc not in ("", "localhost"):
                    raise self._unreadable(f"{parts.netloc!r} is another machine")
                return self._of_file(Path(url2pathname(parts.path)))
            case "http" | "https":
                from sage.common.components.sage_vllm.requests.media.download import download

                return self._checked(download(address, self._policy, self._most_bytes))
            case _:
                raise self._unreadable("its address must begin with data:, file:, http: or https:")

    def _of_data(self, rest: str) -> bytes:
        kind, comma, data = rest.partition(",")
        if not comma:
            raise self._unreadable("a data: address has a comma before the data")
        if not kind.lower().endswith(";base64"):
            return unquote_to_bytes(data)
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._unreadable(f"its data is no base64: {error}") from error

    def _of_file(self, path: Path) -> bytes:
        try:
            path = self._policy.check_path(path, self._given, is_address=self._is_address)
            if not path.is_file():
                is_address = "://" in str(self._given) and not self._is_address
                why = "a folder, and no such file" if path.is_dir() else "no such file"
                hint = "an address is a part {'type': 'image_url', 'image_url': {'url': ...}}"
                raise self._unreadable(f"there is {why}", hint if is_address else None)
            if path.stat().st_size > self._most_bytes:
                raise self._unreadable(f"it has more than {self._most_bytes} bytes")
            with path.open("rb") as file:
                self._check_header(file)
                file.seek(0)
                return file.read()
        except (OSError, RuntimeError) as error:  # RuntimeError: links that go in a circle
            raise self._unreadable(str(error)) from error

    def _checked(self, data: bytes) -> bytes:
        if len(data) > self._most_bytes:
            raise self._unreadable(f"it has more than {self._most_bytes} bytes")
        self._check_header(io.BytesIO(data))
        return data

    @property
    def _most_bytes(self) -> int:
        return _BYTES_PER_PIXEL * self._policy.max_pixels

    def _check_header(self, file: Any) -> None:
        """Read a picture's size, and nothing of what it shows."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(file, formats=_FORMATS) as image:
                width, height = image.size
        except UnidentifiedImageError:
            known = ", ".join(_FORMATS)
            raise self._unreadable(f"it is no picture of the formats {known}") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            most = self._policy.max_pixels
            hint = "make it smaller; PIL.Image.MAX_IMAGE_PIXELS is a limit too"
            problem = f"{self} is too large, and max_pixels is {most}: {error}"
            raise InvalidInputError(self._given, problem, hint=hint) from None
        except (OSError, SyntaxError, ValueError) as error:
            raise self._unreadable(str(error)) from error
        self._policy.check_size(width, height, str(self))

    def _unreadable(self, why: str, hint: str | None = None) -> InvalidInputError:
        return InvalidInputError(self._given, f"{self} cannot be read: {why}", hint=hint)
