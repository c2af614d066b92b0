"""Which pictures may be read, and what becomes of the others."""

from __future__ import annotations

import base64
import http.server
import io
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sage.common.components.sage_vllm import (
    InvalidInputError,
    InvalidOptionError,
    VLLMService,
    VLLMServiceConfig,
)
from sage.common.components.sage_vllm.requests.media.content_parts import content_text
from sage.common.components.sage_vllm.requests.media.image_source import ImageSource
from sage.common.components.sage_vllm.requests.media.media_policy import MediaPolicy
from sage.common.components.sage_vllm.testing import EchoEngine


def png(width: int = 8, height: int = 6) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def huge_png(side: int) -> bytes:
    """A sound PNG of so many pixels, all black, in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)  # one bit per pixel
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def data_address(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.fixture
def service(model_root: Path, tmp_path: Path) -> Iterator[VLLMService]:
    (tmp_path / "in").mkdir()
    config = {
        "model_id": "test/echo",
        "model_root": model_root,
        "media_roots": [tmp_path / "in"],
        "max_pixels": 10_000,
    }
    with VLLMService(config, engine_factory=EchoEngine) as opened:
        yield opened


def ask(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]


def address(url: str) -> list[dict[str, Any]]:
    return ask({"type": "image_url", "image_url": {"url": url}})


# -- what is read ---------------------------------------------------------------------------------


def test_paths_bytes_pil_images_and_addresses_are_read(
    service: VLLMService, tmp_path: Path
) -> None:
    path = tmp_path / "in" / "a b.png"
    path.write_bytes(png())
    image = Image.new("RGB", (8, 6))
    for picture in (path, str(path), png(), image):
        (result,) = service.generate(ask({"type": "image", "image": picture}))
        assert result["text"].endswith("What is it?")
    for url in (data_address(png()), path.as_uri(), f"file://localhost{path.as_posix()}"):
        assert service.generate(address(url))[0]["text"].endswith("What is it?")
    as_text = {"type": "image_url", "image_url": data_address(png())}
    assert service.generate(ask(as_text))[0]["text"]
    assert service.count_tokens([address(data_address(png()))])[0] > 3


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"type": "image", "image": "in/none.png"}, "none.png' may not be read: it is not below"),
        ({"type": "image", "image": b"no picture"}, "no picture of the formats AVIF, BMP"),
        ({"type": "image", "image": png()[:20]}, "cannot be read"),
        ({"type": "image", "image": png(101, 100)}, "101 x 100 pixels, and max_pixels is 10000"),
        ({"type": "image", "image": Image.new("1", (101, 100))}, "101 x 100 pixels"),
        ({"type": "image_url", "image_url": "https://example.org/a.png"}, "'example.org' is no"),
        ({"type": "image_url", "image_url": "ftp://example.org/a"}, "must begin with data:, file:"),
        ({"type": "image_url", "image_url": "file:///etc/hostname"}, "not below .*media_roots"),
        ({"type": "image_url", "image_url": "file://host/a.png"}, "'host' is another machine"),
        ({"type": "image_url", "image_url": "data:image/png;base64,!!"}, "no base64"),
        ({"type": "image_url", "image_url": "data:image/png;base64"}, "a comma before the data"),
    ],
)
def test_a_picture_that_cannot_be_read_fails_alone(
    service: VLLMService, part: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInputError, match=says):
        service.generate(ask(part))
    good, bad = service.generate(["Hello", ask(part)], on_error="return")
    assert good["text"] == "Hello"
    assert bad["error"]["type"] == "InvalidInputError"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image"},
        {"type": "image", "image": ""},
        {"type": "image", "image": 3},
        {"type": "image_url", "image_url": {"uri": "x"}},
        {"type": "image_pil", "image_pil": None},
        {"type": "video_url", "video_url": {"url": "x"}},
        "text",
    ],
)
def test_what_is_no_part_is_refused(service: VLLMService, part: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"content is not text.*; pass a string, or a list"):
        service.generate(ask(part))


def test_links_do_not_lead_out_of_the_roots(service: VLLMService, tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(png())
    link = tmp_path / "in" / "link.png"
    link.symlink_to(outside)
    dots = f"file://{tmp_path}/in/../outside.png"
    for url in (link.as_uri(), outside.as_uri(), dots, dots.replace("..", "%2e%2e")):
        with pytest.raises(InvalidInputError, match="not below"):
            service.generate(address(url))
    (tmp_path / "in" / "loop").symlink_to("loop")
    with pytest.raises(InvalidInputError):
        service.generate(address((tmp_path / "in" / "loop").as_uri()))
    with pytest.raises(InvalidInputError, match="no such file"):
        service.generate(ask({"type": "image", "image": tmp_path / "in"}))


def test_without_roots_paths_are_the_programs_own(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    policy = MediaPolicy()
    assert ImageSource(tmp_path / "a.png", policy).read() == png()
    url = (tmp_path / "a.png").as_uri()
    with pytest.raises(
        InvalidInputError, match="not below any folder that may be read; name the folder in media_"
    ):
        ImageSource(url, policy, is_address=True).read()


# -- how large ------------------------------------------------------------------------------------


def test_a_picture_of_900_megapixels_is_refused_at_its_header(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png(30_000))
    ImageSource(png(), MediaPolicy()).read()  # imports Pillow
    for given in (path, path.read_bytes(), data_address(path.read_bytes())):
        source = ImageSource(given, MediaPolicy(), is_address=isinstance(given, str))
        tracemalloc.start()
        began = time.thread_time()  # of a processor, whatever else the machine does
        with pytest.raises(InvalidInputError, match=r"64000000.*900000000|30000 x 30000"):
            source.read()
        seconds, (_, peak) = time.thread_time() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < 0.25
        assert peak < 20e6


def test_a_file_of_more_bytes_than_its_pixels_take_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    with path.open("wb") as file:
        file.write(png())
        file.truncate(1 << 20)
    policy = MediaPolicy(max_pixels=1000)
    for given in (path, path.read_bytes()):
        with pytest.raises(InvalidInputError, match="more than 4000 bytes"):
            ImageSource(given, policy).read()


# -- hosts ----------------------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[str]:
    """A web server with a picture, and redirections to it and elsewhere."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            places = {"/here": "/a.png", "/away": "http://example.org/a.png", "/f": "file:///etc"}
            if self.path in places:
                self.send_response(302)
                self.send_header("Location", places[self.path])
                self.end_headers()
            elif self.path == "/a.png":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(png())
            else:
                self.send_error(404)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_hosts_that_are_named_are_asked_and_no_others(host: str) -> None:
    policy = MediaPolicy(hosts=frozenset({"127.0.0.1"}))
    for place in ("/a.png", "/here"):
        assert ImageSource(host + place, policy, is_address=True).read() == png()
    for place, says in (
        ("/away", "'example.org' is no host"),
        ("/f", "Redirection to url 'file:"),
        ("/none", "404"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            ImageSource(host + place, policy, is_address=True).read()
    with pytest.raises(InvalidInputError, match=r"no host of allow_media_hosts, which has none"):
        ImageSource(host + "/a.png", MediaPolicy(), is_address=True).read()


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"media_roots": "in"},
            "media_roots must be a list of folders, not 'in'; pass media_roots=\\['in'\\]",
        ),
        ({"media_roots": ["no/such/folder"]}, "'no/such/folder' in media_roots is no folder"),
        ({"allow_media_hosts": "a.org"}, "allow_media_hosts must be a list of hosts"),
        ({"allow_media_hosts": ["https://a.org"]}, "is no host; name it alone"),
        ({"max_pixels": 0}, "max_pixels must be a whole number, 1 or more, not 0"),
        ({"max_pixels": True}, "max_pixels must be a whole number"),
    ],
)
def test_a_configuration_that_is_none(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        VLLMServiceConfig.from_dict({"model_id": "org/name", **settings})


def test_pictures_in_texts_that_name_them() -> None:
    parts = [
        {"type": "image", "image": "cat.png"},
        {"type": "text", "text": "What?"},
        {"type": "image", "image": png()},
    ]
    assert content_text(parts) == "<cat.png>\nWhat?\n<image>"
    assert content_text("Hello") == "Hello"


def test_nothing_of_pillow_is_loaded_for_texts() -> None:
    program = (
        "import sys\n"
        "from sage.common.components.sage_vllm.requests.inputs import parse_prompts\n"
        "parse_prompts([[{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}]}]])\n"
        "assert 'PIL' not in sys.modules, 'loaded'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
