"""A model that sees, on a real engine: it says what vLLM's own ``LLM.chat`` has it say."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sage.common.components.sage_vllm import (
    InvalidInputError,
    InvalidRequestError,
    PromptTooLongError,
    VLLMService,
)
from sage.common.components.sage_vllm.driver.inbox import EngineDied
from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.testing import write_tiny_vision_model
from sage.common.model_registry import get_model_path, import_model

MODEL = "test/tiny-vision"
ENGINE = {"dtype": "float32", "max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20}
_sockets: list[str] = []  # that this process has opened; an audit hook cannot be taken back


def _note_sockets(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.__new__", "socket.getaddrinfo"):
        _sockets.append(f"{event} {arguments}")


sys.addaudithook(_note_sockets)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    import_model(MODEL, write_tiny_vision_model(folder / "model"), root=folder / "registry")
    return folder / "registry"


@pytest.fixture(scope="module")
def expected(root: Path) -> list[Any]:
    """What vLLM's own LLM says of 64 pictures; its end would be that of an engine beside it."""
    from vllm import LLM, SamplingParams, envs

    prompts: list[Any] = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_pil", "image_pil": image.convert("RGB")},
                    {"type": "text", "text": "What is it?"},
                ],
            }
        ]
        for image in pictures(64)
    ]
    path = str(get_model_path(MODEL, root=root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        envs.disable_envs_cache()  # in which an engine of another test keeps its settings
        llm = LLM(path, enforce_eager=True, max_model_len=512, **ENGINE)
        found = llm.chat(prompts, SamplingParams(temperature=0, max_tokens=12), use_tqdm=False)
        llm.llm_engine.engine_core.shutdown()
    return list(found)


@pytest.fixture(scope="module")
def service(root: Path, expected: list[Any]) -> Iterator[VLLMService]:
    config = {
        "model_id": MODEL,
        "model_root": root,
        "engine": ENGINE,
        "sampling": {"temperature": 0, "max_tokens": 12},
    }
    with VLLMService(config) as opened:
        yield opened


def pictures(count: int) -> list[Image.Image]:
    """Noise of many sizes, among it grey, transparent and palette pictures."""
    chance = np.random.default_rng(3)
    found = []
    for index in range(count):
        height, width = chance.integers(20, 120, 2)
        noise = Image.fromarray(chance.integers(0, 255, (height, width, 3), dtype=np.uint8))
        found.append(noise.convert(("RGB", "L", "RGB", "P")[index % 4]))
    return found


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def ask(image: Any, text: str = "What is it?") -> list[dict[str, Any]]:
    part = {"type": "image", "image": image}
    return [{"role": "user", "content": [part, {"type": "text", "text": text}]}]


def test_it_says_what_vllm_has_it_say_and_opens_no_socket(
    service: VLLMService, expected: list[Any], tmp_path: Path
) -> None:
    images = [image.convert("RGB") for image in pictures(64)]
    given: list[Any] = []
    for index, image in enumerate(images):
        path = tmp_path / f"{index}.png"
        path.write_bytes(encoded(image))
        given.append((path, encoded(image), image)[index % 3])
    before = len(_sockets)
    results = service.generate([ask(each) for each in given])
    assert _sockets[before:] == []
    assert [each["text"] for each in results] == [each.outputs[0].text for each in expected]
    assert len({each["text"] for each in results}) > 32  # it does look at them
    counts = [each["tokens_used"]["prompt"] for each in results]
    assert counts == [len(each.prompt_token_ids) for each in expected]


def test_pictures_of_every_mode_and_several_in_a_prompt(service: VLLMService) -> None:
    for image in pictures(4):
        (by_bytes,) = service.generate(ask(encoded(image)))
        (by_image,) = service.generate(ask(image.convert("RGB")))
        assert by_bytes["text"] == by_image["text"]
    one, two = pictures(2)
    both = [
        {"type": "image", "image": one},
        {"type": "image", "image": encoded(two)},
        {"type": "text", "text": "Compare."},
    ]
    (result,) = service.generate([[{"role": "user", "content": both}]])
    (single,) = service.generate(ask(one, "Compare."))
    assert result["tokens_used"]["prompt"] >= single["tokens_used"]["prompt"] + 7
    assert service.count_tokens([ask(one)]) == [
        service.generate(ask(one))[0]["tokens_used"]["prompt"]
    ]
    with service.stream(ask(one)) as stream:
        assert "".join(stream) == service.generate(ask(one))[0]["text"]


def test_many_callers_at_once(service: VLLMService) -> None:
    images = pictures(8)
    alone = [service.generate(ask(image))[0]["text"] for image in images]
    futures = [service.generate_async(ask(image)) for image in images * 4]
    texts = [future.result()[0]["text"] for future in futures]
    assert texts == alone * 4


def test_a_picture_that_breaks_off_fails_its_record(service: VLLMService) -> None:
    (image,) = pictures(1)
    cut = encoded(image)[:-2000]
    with pytest.raises(InvalidInputError, match=r"a picture of .* bytes cannot be read"):
        service.generate(ask(cut))
    good, bad = service.generate([ask(image), ask(cut)], on_error="return")
    assert good["text"]
    assert bad["error"]["type"] == "InvalidInputError"
    many = [{"type": "image", "image": image}] * 80
    with pytest.raises(PromptTooLongError, match="512"):
        service.generate([[{"role": "user", "content": many}]])
    with pytest.raises(InvalidRequestError, match="no prompts with pictures"):
        service.beam_search(ask(image))
    assert service.stats()["restarts"] == 0


def test_an_engine_that_is_built_again_sees_them_too(service: VLLMService, slow_steps: Any) -> None:
    images = pictures(3)
    before = [service.generate(ask(image), max_tokens=60)[0]["text"] for image in images]
    engine: Any = service._engines.engine(Role.GENERATE)
    driver = engine._driver
    with slow_steps(service):
        futures = [service.generate_async(ask(image), max_tokens=60) for image in images]
        driver.inbox.tell(EngineDied(driver._runtime_number))
    assert [future.result()[0]["text"] for future in futures] == before
    assert service.stats()["restarts"] == 1


def test_a_text_model_refuses_before_anything_runs(model_root: Path) -> None:
    config = {"model_id": "test/tiny-chat", "model_root": model_root, "engine": ENGINE}
    with VLLMService(config) as blind:
        done = blind.stats()["requests_done"]
        with pytest.raises(InvalidRequestError, match=r"prompt 1 has pictures.*takes texts alone"):
            blind.generate(["Hello", ask("no/such/file.png")])
        assert blind.stats()["requests_done"] == done
        good, bad = blind.generate(["Hello", ask("none.png")], on_error="return")
        assert good["text"]
        assert "takes texts alone" in bad["error"]["message"]
        assert blind.stats()["engine"]["modalities"] == ()
