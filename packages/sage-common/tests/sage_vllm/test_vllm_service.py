"""VLLMService on a real engine: what goes in, what comes out, what is refused."""

from __future__ import annotations

import logging
import pickle
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.errors import (
    EngineStartError,
    InvalidOptionError,
    InvalidRequestError,
    ModelInUseError,
    PromptTooLongError,
)
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.service import VLLMService, VLLMServiceConfig
from sage.common.components.sage_vllm.testing.echo_engine import write_echo_model
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import ModelNotFoundError, import_model
from sage.common.service import ServiceClosedError

CHAT_MODEL, BASE_MODEL = "test/tiny-chat", "test/tiny-base"
CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def test_a_string_gives_one_result_with_all_its_fields(service: VLLMService) -> None:
    (result,) = service.generate("Hello there", max_tokens=5)
    assert set(result) == {
        "text", "finish_reason", "tokens_used", "latency", "model_id", "request_id",
    }  # fmt: skip
    assert result["text"]
    assert result["finish_reason"] == "length"
    assert result["tokens_used"]["completion"] == 5
    used = result["tokens_used"]
    assert used["total"] == used["prompt"] + used["completion"]
    assert result["latency"] > 0
    assert result["model_id"] == CHAT_MODEL


def test_all_shapes_of_prompts_mean_the_same(service: VLLMService) -> None:
    as_string = service.generate("Hello")
    as_list = service.generate(["Hello"])
    as_item = service.generate({"prompt": "Hello"})
    as_items = service.generate([{"prompt": "Hello", "options": {"max_tokens": 8}}])
    texts = [r[0]["text"] for r in (as_string, as_list, as_item, as_items)]
    assert len(set(texts)) == 1


def test_a_conversation_is_one_prompt_through_the_chat_template(service: VLLMService) -> None:
    (one,) = service.generate(CONVERSATION)
    both = service.generate([CONVERSATION, CONVERSATION])
    (as_item,) = service.generate({"messages": CONVERSATION})
    # The template of the tiny model, written out.
    written = (
        "<|begin|><|turn|>system\nBe brief.<|end|>\n<|turn|>user\nHi<|end|>\n<|turn|>assistant\n"
    )
    (as_text,) = service.generate(written)
    assert [r["text"] for r in both] == [one["text"]] * 2
    assert as_item["text"] == one["text"] == as_text["text"]
    # The string gets the begin token that the tokenizer adds to every text; here it has its own.
    assert 0 <= as_text["tokens_used"]["prompt"] - one["tokens_used"]["prompt"] <= 1


def test_results_come_in_the_order_of_the_prompts(service: VLLMService) -> None:
    prompts = [f"number {n} of many" for n in range(40)]
    together = [r["text"] for r in service.generate(prompts)]
    reverse = [r["text"] for r in service.generate(prompts[::-1])]
    assert together == reverse[::-1]
    assert len(set(together)) > 1


def test_options_of_item_call_service_and_model_go_in_that_order(service: VLLMService) -> None:
    items = [{"prompt": "a", "options": {"max_tokens": 2}}, "b"]
    assert [r["tokens_used"]["completion"] for r in service.generate(items, max_tokens=3)] == [2, 3]
    (default,) = service.generate("b")
    assert default["tokens_used"]["completion"] == 8


def test_a_seed_repeats_and_n_gives_choices(service: VLLMService) -> None:
    options = {"temperature": 1.0, "seed": 3, "n": 3}
    (one,) = service.generate("Once", **options)
    (two,) = service.generate("Once", **options)
    assert one["choices"] == two["choices"]
    assert len(one["choices"]) == 3
    assert one["text"] == one["choices"][0]["text"]
    assert one["tokens_used"]["completion"] == 24


def test_a_stop_string_ends_the_text(service: VLLMService) -> None:
    (whole,) = service.generate("Hello")
    stop = whole["text"][4:6]
    (stopped,) = service.generate("Hello", stop=[stop])
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == whole["text"].split(stop)[0]


def test_calls_made_together_are_batched(service: VLLMService) -> None:
    before = service.stats()
    long = {"max_tokens": 200, "ignore_eos": True}
    futures = [service.generate_async(f"prompt {n}", **long) for n in range(16)]
    for future in futures:
        future.result()
    after = service.stats()
    steps = after["steps"] - before["steps"]
    # One at a time would take 16 x 200 steps.
    assert steps < 800
    assert after["requests_done"] - before["requests_done"] == 16
    assert after["in_flight"] == 0


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        (7, "not 7"),
        ([1.5], "prompt 0 must be"),
        (["fine", None], "prompt 1 must be"),
        ("", "the prompt is empty"),
        (["fine", ""], "prompt 1 is empty"),
        ({"text": "Hi"}, "'prompt' or 'messages'"),
        ({"prompt": "Hi", "messages": CONVERSATION}, "'prompt' or 'messages'"),
        ({"prompt": 3}, "no string"),
        ({"prompt": "Hi", "options": 3}, "must be a mapping"),
        ({"messages": []}, "at least one message"),
        ([[{"role": "user"}]], "'content'"),
        ([[{"role": "user", "content": "x"}, "y"]], "each with a 'role'"),
        (
            [[{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]],
            "content is not text",
        ),
        (
            [[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]],
            "the prompt has pictures, and .* takes texts alone",
        ),
        (b"bytes", "not b'bytes'"),
    ],
)
def test_a_prompt_of_the_wrong_shape_is_a_value_error(
    service: VLLMService, prompts: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        service.generate(prompts)
    assert service.stats()["in_flight"] == 0


@pytest.mark.parametrize(
    ("prompt", "tokens", "says"),
    [
        ("word " * 600, 1801, "512 tokens, and this prompt has 1801; shorten"),
        ("word " * 170 + "a", 512, "this prompt has 512, which leaves no room for an answer"),
        ("word " * 50_000, None, "512 tokens, and this prompt has more; shorten"),
    ],
)
def test_a_prompt_too_long_is_refused_with_both_numbers(
    service: VLLMService, prompt: str, tokens: int | None, says: str
) -> None:
    with pytest.raises(PromptTooLongError, match=says) as caught:
        service.generate(prompt)
    assert isinstance(caught.value, InvalidRequestError)
    assert (caught.value.prompt_tokens, caught.value.max_model_len) == (tokens, 512)
    assert_idle(service)
    assert service.generate("word " * 170, max_tokens=1)[0]["tokens_used"]["prompt"] == 511


def test_a_bad_prompt_aborts_the_others_of_its_call(service: VLLMService) -> None:
    with pytest.raises(ValueError, match="maximum context length"):
        service.generate(["fine", "word " * 600], max_tokens=300)
    assert_idle(service)


def test_on_error_return_keeps_the_good_prompts(service: VLLMService) -> None:
    good, bad, also_good = service.generate(["fine", "word " * 600, "fine"], on_error="return")
    assert good["text"] == also_good["text"]
    assert bad["error"]["type"] == "PromptTooLongError"
    assert "512" in bad["error"]["message"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_token": 3}, "unknown sampling option 'max_token'.*'max_tokens'"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature in the options.*a number, not 'hot'"),
        ({"max_tokens": 2.5}, "max_tokens.*a whole number, not 2.5"),
        ({"seed": 2**70}, "seed.*a whole number"),
        ({"logprobs": True}, "logprobs.*a whole number, not True"),
        ({"ignore_eos": 1}, "ignore_eos.*True or False, not 1"),
        ({"stop": [3]}, "stop.*a string or a list of strings"),
        ({"stop_token_ids": "x"}, "stop_token_ids.*a list of whole numbers"),
        ({"extra_args": "x"}, "extra_args.*strings as keys, not 'x'"),
        ({"choice": []}, r"choice.*a list of strings, at least one, not \[\]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"on_error": "skip"}, "unknown on_error 'skip'; valid: raise, return"),
    ],
)
def test_an_option_that_is_not_valid_is_named(
    service: VLLMService, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        service.generate("Hi", **options)
    with pytest.raises(InvalidOptionError, match="unknown sampling option 'max_token'") as caught:
        service.generate({"prompt": "Hi", "options": {"max_token": 3}})
    assert (caught.value.name, caught.value.given) == ("max_token", 3)
    assert caught.value.hint == "did you mean 'max_tokens'?"


def test_a_model_without_a_chat_template_takes_no_conversation(model_root: Path) -> None:
    config = {
        "model_id": BASE_MODEL,
        "model_root": model_root,
        "engine": {"kv_cache_memory_bytes": 64 << 20},
    }
    with VLLMService(config) as service:
        with pytest.raises(ValueError, match=f"{BASE_MODEL}' has no chat template.*plain string"):
            service.generate(CONVERSATION)
        assert service.generate("plain", max_tokens=2)[0]["text"]
        assert service.stats()["engine"]["chat_templates"] == ()


def test_a_running_engine_says_which_chat_templates_its_model_has(service: VLLMService) -> None:
    assert service.stats()["engine"]["chat_templates"] == ("default",)


# -- cancelling -----------------------------------------------------------------------------------


def test_cancelling_a_future_frees_the_engine(service: VLLMService) -> None:
    future = service.generate_async(["one", "two"], max_tokens=400, ignore_eos=True)
    until_in_flight(service, 2)
    assert future.cancel()
    assert_idle(service)
    assert service.generate("Hello")[0]["text"]


# -- process --------------------------------------------------------------------------------------


def test_process_runs_every_task(service: VLLMService) -> None:
    payload = {"task": "generate", "inputs": "Hello", "options": {"max_tokens": 3}}
    (result,) = service.process(payload)
    assert result["tokens_used"]["completion"] == 3
    chat = service.process({"task": "generate", "inputs": CONVERSATION})
    assert len(chat) == 1
    shown = service.process({"task": "show_models"})
    assert {m["model_id"] for m in shown} >= {CHAT_MODEL, BASE_MODEL}
    assert Path(shown[0]["path"]).is_dir()
    assert service.process({"task": "stats"})["model_id"] == CHAT_MODEL


def test_a_model_can_be_deleted_unless_it_is_loaded(service: VLLMService, tmp_path: Path) -> None:
    root = service.config.model_root
    import_model("test/spare", write_tiny_model(tmp_path / "spare", seed=5), root=root)
    delete = {"task": "delete_model", "options": {"model_id": "test/spare"}}
    assert service.process(delete)["freed_bytes"] > 0
    with pytest.raises(ModelNotFoundError):
        service.process(delete)
    with pytest.raises(ModelInUseError, match="'test/tiny-chat' is loaded"):
        service.delete_model(CHAT_MODEL)
    assert service.generate("still here")[0]["text"]


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"task": "genrate", "inputs": "x"}, "unknown task 'genrate'; did you mean 'generate'"),
        ({"inputs": "x"}, "unknown task None; valid: beam_search, cancel_fine_tune, class"),
        ({"task": "generate"}, "needs 'inputs'"),
        ({"task": "stats", "inputs": "x"}, "takes no 'inputs'"),
        ({"task": ["generate"], "inputs": "x"}, "unknown task"),
        ({"task": "switch_model", "options": {"model": "x"}}, "takes the options model_id, revi"),
        ({"task": "embed", "inputs": "x", "options": {"normalise": 1}}, "normalize, dimensions"),
        ({"task": "generate", "input": "x"}, "payload must be"),
        ({"task": "generate", "inputs": "x", "options": 3}, "'options' must be a mapping"),
        ("generate", "payload must be"),
    ],
)
def test_process_names_what_is_wrong(service: VLLMService, payload: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        service.process(payload)


# -- embedding ------------------------------------------------------------------------------------


def test_embedding_falls_back_to_the_text_model_and_says_so(
    service: VLLMService, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = service.embed(["one text", "another text altogether", "one text"])
    assert "no embedding_model_id is configured" in caplog.text
    assert result["model_id"] == CHAT_MODEL
    assert result["dim"] == 64
    assert [len(v) for v in result["vectors"]] == [64] * 3
    assert result["vectors"][0] == pytest.approx(result["vectors"][2], abs=1e-4)
    assert result["vectors"][0] != pytest.approx(result["vectors"][1], abs=1e-2)
    for vector in result["vectors"]:
        assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-3)
    assert result["tokens_used"]["prompt"] == result["tokens_used"]["total"] > 0
    raw = service.process({"task": "embed", "inputs": "one text", "options": {"normalize": False}})
    assert sum(x * x for x in raw["vectors"][0]) != pytest.approx(1, abs=1e-3)


def test_texts_that_are_none_are_refused(service: VLLMService) -> None:
    with pytest.raises(ValueError, match="text 1 must be a non-empty string, not 3"):
        service.embed(["fine", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="must be a string or a list"):
        service.embed({"a": 1})  # type: ignore[arg-type]


# -- configuration and start --------------------------------------------------------------------


def test_the_proposals_configuration_is_taken() -> None:
    config = VLLMServiceConfig.from_dict(
        {
            "model_id": "org/text",
            "embedding_model_id": "org/embedding",
            "engine_kwargs": {"dtype": "auto"},
            "auto_reload": True,
            "sampling_defaults": {"temperature": 0.7, "max_tokens": 512},
            "tensor_parallel_size": 2,
        }
    )
    assert config.engine == {"dtype": "auto", "tensor_parallel_size": 2}
    assert config.sampling["max_tokens"] == 512
    assert config.auto_reload
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("config", "name", "given", "says"),
    [
        ({}, "model_id", None, "names no model"),
        ({"model_id": ""}, "model_id", "", "must name a model"),
        ({"modle_root": "x"}, "modle_root", "x", "unknown configuration key.*'model_root'"),
        (
            {"engine_mode": "inlin"},
            *("engine_mode", "inlin", "unknown engine_mode 'inlin'.*'inline'"),
        ),
        (
            {"sampling": {"temprature": 1}},
            *("temprature", 1, "'temprature' in sampling.*'temperature'"),
        ),
        ({"engine": {}, "engine_kwargs": {}}, "engine_kwargs", {}, "alias"),
    ],
)
def test_a_configuration_that_is_not_valid_is_named(
    config: dict[str, Any], name: str, given: object, says: str
) -> None:
    whole = config if name == "model_id" else {"model_id": "a/b", **config}
    with pytest.raises(InvalidOptionError, match=says) as caught:
        VLLMServiceConfig.from_dict(whole)
    assert isinstance(caught.value, ValueError)
    assert (caught.value.name, caught.value.given) == (name, given)


def test_a_missing_model_names_the_command_that_gets_it(tmp_path: Path) -> None:
    root = tmp_path / "registry"  # the shared one has models of other tests, of similar names
    for model_id in (CHAT_MODEL, BASE_MODEL, "test/echo"):
        import_model(model_id, write_echo_model(tmp_path / model_id), root=root)
    config = {"model_id": "test/tiny-cat", "model_root": root}
    with pytest.raises(ModelNotFoundError) as caught, VLLMService(config):
        pass
    way_out = f"Use {CHAT_MODEL}, or get another one: `sage llm model download --model"
    assert way_out in str(caught.value.hint)
    assert caught.value.near == (CHAT_MODEL, BASE_MODEL)


def test_an_unknown_engine_option_is_named(model_root: Path) -> None:
    config = {"model_id": CHAT_MODEL, "model_root": model_root, "engine": {"max_modl_len": 9}}
    says = r"unknown engine option 'max_modl_len'.*'max_model_len'"
    with pytest.raises(InvalidOptionError, match=says) as caught, VLLMService(config):
        pass
    assert (caught.value.name, caught.value.given) == ("max_modl_len", 9)


def test_an_engine_that_cannot_start_says_why(model_root: Path) -> None:
    config = {"model_id": CHAT_MODEL, "model_root": model_root, "engine": {"max_model_len": 1000}}
    with pytest.raises(EngineStartError, match=r"(?s)could not load 'test/tiny-chat'.*1000.*512"):
        VLLMService(config).open()


def test_a_context_that_memory_cannot_hold_is_refused_with_one_that_it_can(
    model_root: Path,
) -> None:
    engine = {"max_model_len": 500, "kv_cache_memory_bytes": 600_000, "dtype": "float32"}
    config = {"model_id": CHAT_MODEL, "model_root": model_root, "engine": engine}
    service = VLLMService(config)
    with pytest.raises(InsufficientMemoryError, match=r"500 tokens.*'max_model_len': 128"):
        service.open()
    assert service.health()["state"] == "failed"


def test_calls_before_and_after_its_life_say_so(model_root: Path) -> None:
    config = {
        "model_id": CHAT_MODEL,
        "model_root": model_root,
        "engine": {"kv_cache_memory_bytes": 64 << 20},
    }
    service = VLLMService(config)
    with pytest.raises(ServiceClosedError, match="not been opened"):
        service.generate("Hi")
    service.open()
    pending = service.generate_async(["one", "two"], max_tokens=400, ignore_eos=True)
    service.close()
    service.close()
    with pytest.raises(RuntimeError, match="was closed, so this request has no result"):
        pending.result(timeout=60)
    with pytest.raises(RuntimeError, match="closed"):
        service.generate("Hi")
    with pytest.raises(ServiceClosedError):
        service.process({"task": "show_models"})


def until_in_flight(service: VLLMService, count: int) -> None:
    """Wait until the engine has taken ``count`` requests; each stats() call lets it run on."""
    while service.stats()["in_flight"] < count:
        service.process({"task": "stats"})


def assert_idle(service: VLLMService) -> None:
    """The engine takes aborts between two steps: a short request passes behind them."""
    done: Future[Any] = service.generate_async("behind", max_tokens=1)
    done.result()
    assert service.stats()["in_flight"] == 0
