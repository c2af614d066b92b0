"""Streaming, structure, log-probabilities, priorities, deadlines, adapters: on a real engine."""

from __future__ import annotations

import gc
import json
import math
import random
import resource
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client
import pytest
from safetensors.numpy import save_file
from transformers import AutoTokenizer

from sage.common.components.sage_vllm.driver.inbox import EngineDied
from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.errors import InvalidRequestError, ModelInUseError
from sage.common.components.sage_vllm.prometheus import VLLMServiceCollector
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.model_registry.vllm_registry import ModelNotFoundError, get_model, import_model

CHAT_MODEL = "test/tiny-chat"
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}

# -- streams --------------------------------------------------------------------------------------


def test_a_stream_yields_the_text_piece_by_piece(service: VLLMService) -> None:
    (whole,) = service.generate("Hello", max_tokens=30, ignore_eos=True)
    stream = service.stream("Hello", max_tokens=30, ignore_eos=True)
    pieces = list(stream)
    assert "".join(pieces) == whole["text"] == stream.result["text"]
    assert len(pieces) > 5
    assert stream.result["tokens_used"] == whole["tokens_used"]
    assert next(stream, None) is None


def test_closing_or_dropping_a_stream_aborts_its_generation(service: VLLMService) -> None:
    with service.stream("Hello", max_tokens=400, ignore_eos=True) as stream:
        assert next(stream)
    assert_idle(service)
    dropped = service.stream("Hello", max_tokens=400, ignore_eos=True)
    assert next(dropped)
    del dropped
    gc.collect()
    assert_idle(service)


def test_a_stream_raises_what_is_wrong(service: VLLMService) -> None:
    with pytest.raises(InvalidRequestError, match="512"):
        service.stream("word " * 600)
    with pytest.raises(ValueError, match="one prompt, not 2"):
        service.stream(["a", "b"])
    with pytest.raises(InvalidRequestError, match="n must be 1"):
        service.stream("a", n=2)


# -- structure, log-probabilities, tokens ---------------------------------------------------------


def test_a_schema_gives_parsed_output(service: VLLMService) -> None:
    (result,) = service.generate("Is it?", json_schema=SCHEMA, max_tokens=200)
    assert result["parsed"] == json.loads(result["text"])
    assert isinstance(result["parsed"]["ok"], bool)
    assert not set(result["text"]) & set(" \t\n")  # else a weak model fills its tokens with them
    (cut,) = service.generate("Is it?", json_schema=SCHEMA, max_tokens=1)
    assert cut["finish_reason"] == "length"
    assert cut["parsed"] is None
    (plain,) = service.generate("Is it?")
    assert "parsed" not in plain


def test_choice_regex_and_grammar_bind_the_text(service: VLLMService) -> None:
    assert service.generate("?", choice=["yes", "no"])[0]["text"] in ("yes", "no")
    assert service.generate("?", regex="[0-9]{3}")[0]["text"].isdecimal()
    assert service.generate("?", grammar='root ::= "a" | "b"')[0]["text"] in ("a", "b")
    items = [{"prompt": "?", "options": {"choice": ["left"]}}, "?"]
    assert service.generate(items)[0]["text"] == "left"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"json_schema": SCHEMA, "regex": "a"}, "json_schema and regex.*only one"),
        ({"json_schema": "{}"}, "json_schema.*as a dict"),
        ({"regex": "("}, "(?i)regex|grammar|paren"),
        ({"deadline": 0}, "deadline.*above 0, not 0"),
        ({"priority": 1.5}, "priority.*whole number, not 1.5"),
        ({"lora": 3}, "lora.*must be a string, not 3"),
        ({"logit_bias": {5: "x"}}, "logit_bias.*token ids and numbers"),
        ({"logit_bias": {"5": 1}}, "logit_bias.*token ids and numbers"),
        ({"extra_args": {1: 2}}, "extra_args.*strings as keys"),
        ({"lora": CHAT_MODEL}, "is no LoRA adapter"),
    ],
)
def test_an_option_without_sense_is_refused(
    service: VLLMService, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        service.generate("?", **options)
    assert service.generate("fine")[0]["text"]
    assert service.stats()["restarts"] == 0


def test_logprobs_are_given_per_token(service: VLLMService) -> None:
    (result,) = service.generate("Hello", logprobs=2, max_tokens=4)
    assert len(result["logprobs"]) == 4
    assert "".join(each["token"] for each in result["logprobs"]) == result["text"]
    for each in result["logprobs"]:
        assert each["logprob"] == max(each["top"].values())  # greedy takes the likeliest
        assert math.exp(each["logprob"]) <= 1


def test_tokens_are_counted_as_they_will_be_used(service: VLLMService) -> None:
    prompts = ["Hello", [{"role": "user", "content": "Hello"}]]
    used = [r["tokens_used"]["prompt"] for r in service.generate(prompts)]
    assert service.count_tokens(prompts) == used
    longer = "word " * 600  # than the model takes: to count is how one cuts
    assert service.count_tokens(longer)[0] > 600
    assert service.count_tokens([{"role": "user", "content": longer}])[0] > 600
    assert used[1] > used[0]


# -- deadlines, cancelling, priorities ------------------------------------------------------------


def test_a_deadline_gives_the_text_so_far(service: VLLMService) -> None:
    whole = service.generate("Hello", max_tokens=400, ignore_eos=True)[0]["text"]
    (cut,) = service.generate("Hello", max_tokens=400, ignore_eos=True, deadline=0.05)
    assert cut["finish_reason"] == "deadline"
    assert 0 < cut["tokens_used"]["completion"] < 400
    assert whole.startswith(cut["text"])
    (at_once,) = service.generate("Hello", max_tokens=400, ignore_eos=True, deadline=1e-9)
    assert at_once["finish_reason"] == "deadline"
    (three,) = service.generate("Hello", n=3, temperature=1, deadline=1e-9)
    assert [choice["finish_reason"] for choice in three["choices"]] == ["deadline"] * 3
    (in_time,) = service.generate("Hello", max_tokens=3, deadline=60)
    assert in_time["finish_reason"] == "length"
    assert_idle(service)


def test_a_thousand_calls_cancelled_at_random_leave_nothing(service: VLLMService) -> None:
    chance = random.Random(5)

    def round_of_calls(count: int) -> None:
        futures: list[Future[Any]] = []
        for n in range(count):
            futures.append(service.generate_async(f"call {n}", max_tokens=30, ignore_eos=True))
            if chance.random() < 0.5:
                chance.choice(futures).cancel()
        for future in futures:
            if chance.random() < 0.9:
                future.cancel()
        for future in futures:
            assert future.cancelled() or future.result()[0]["text"]

    round_of_calls(200)
    before = _resident_bytes()
    round_of_calls(1000)
    assert_idle(service)
    engine: Any = service._engines.engine(Role.GENERATE)
    core = engine._driver._runtime._engine.engine_core.engine_core
    assert core.scheduler.get_num_unfinished_requests() == 0  # in vLLM too
    gc.collect()
    assert _resident_bytes() - before < 30 << 20


def test_what_has_priority_goes_first(service: VLLMService, slow_steps: Any) -> None:
    order: list[str] = []
    waiting = []
    with slow_steps(service):  # all wait behind those that are busy before one of these is done
        # As many as the engine works on at once keep it busy; of those behind, the last go first.
        busy = [
            service.generate_async(f"busy {n}", max_tokens=60, ignore_eos=True) for n in range(16)
        ]
        for priority in (3, 2, 1, -1):
            for n in range(16):
                name = f"{priority}"
                future = service.generate_async(f"prompt {n}", max_tokens=20, priority=priority)
                future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                waiting.append(future)
    for future in [*busy, *waiting]:
        future.result()
    assert order.index("-1") < order.index("1") < order.index("2") < order.index("3")
    assert set(order[:16]) == {"-1"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -1}, "temperature must be non-negative, got -1"),
        ({"regex": "("}, "bad sampling options"),
        ({"json_schema": {"type": "objekt"}}, "bad sampling options"),
        ({"logprobs": 100_000}, "greater than max allowed"),
        ({"lora": "test/none"}, "test/none"),
        ({"max_tokens": "4"}, "max_tokens in .* must be a whole number"),
    ],
)
def test_options_are_looked_at_before_there_is_a_prompt(
    service: VLLMService, options: dict[str, Any], says: str
) -> None:
    before = service.stats()["requests_done"]
    with pytest.raises((ValueError, ModelNotFoundError), match=says):
        service.check_options("generate", **options)
    service.check_options("generate", temperature=0, regex="a+", logprobs=2, thinking=None)
    service.check_options("classify", labels=["a", "b"])
    assert service.stats()["requests_done"] == before


# -- LoRA ------------------------------------------------------------------------------------------


def test_an_adapter_of_the_registry_is_chosen_per_call(
    model_root: Path, tmp_path: Path, slow_steps: Any
) -> None:
    base = get_model(CHAT_MODEL, root=model_root)
    for name, rank in (("test/adapter", 8), ("test/wide-adapter", 64)):
        folder = _write_adapter(tmp_path / name, base.path, rank=rank)
        assert import_model(name, folder, root=model_root).tags["type"] == "lora"
    config = {
        "model_id": CHAT_MODEL,
        "model_root": model_root,
        "engine": {
            "dtype": "float32",
            "enable_lora": True,
            "max_lora_rank": 8,
            "max_num_seqs": 16,
            "kv_cache_memory_bytes": 64 << 20,
        },
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    with VLLMService(config) as service:
        items: list[Any] = ["Hello", {"prompt": "Hello", "options": {"lora": "test/adapter"}}]
        without, adapted = service.generate(items)
        assert without["text"] != adapted["text"]
        assert without["text"] == service.generate("Hello")[0]["text"]
        assert service.generate("Hello", lora="test/adapter")[0]["text"] == adapted["text"]
        with pytest.raises(ValueError, match=r"rank 64.*up to 8.*'max_lora_rank': 64"):
            service.generate("Hello", lora="test/wide-adapter")
        with pytest.raises(ModelNotFoundError, match="test/adapter"):
            service.generate("Hello", lora="test/adaptor")
        check_labels_with(service, base.path, "test/adapter")
        narrow = _write_adapter(tmp_path / "narrow", base.path, rank=4, seed=2)
        import_model("test/narrow-adapter", narrow, root=model_root)
        # vLLM's max_loras is 1: two adapters take turns.
        assert 50 <= steps_of_both(service, slow_steps, "test/adapter", "test/narrow-adapter") <= 56
        long = {"max_tokens": 400, "ignore_eos": True}
        says = "a call of this service is using the adapter"
        with slow_steps(service):
            using = service.generate_async("Hello", lora="test/adapter", **long)
            with pytest.raises(ModelInUseError, match=says):
                service.delete_model("test/adapter")
        using.cancel()
        assert service.delete_model("test/adapter")["freed_bytes"] > 0
        with pytest.raises(ModelNotFoundError, match="test/narrow-adapter"):
            service.generate("Hello", lora="test/adapter")
        assert service.generate("Hello", lora="test/narrow-adapter")[0]["text"]


def check_labels_with(service: VLLMService, folder: Path, adapter: str) -> None:
    """classify(labels=) reads what the adapter makes of them, as loglikelihood does."""
    options: dict[str, Any] = {"labels": ["good", "bad and worse"], "prompt_template": "{text}"}
    (plain,) = service.classify("what a day", **options)["logprobs"]
    (adapted,) = service.classify("what a day", lora=adapter, **options)["logprobs"]
    assert plain != pytest.approx(adapted, abs=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = [{"role": "user", "content": "what a day"}]
    asked = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)

    def tokens(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    pairs = [(tokens(asked), tokens(label)) for label in options["labels"]]
    for lora, read in ((adapter, adapted), (None, plain)):
        found = service.loglikelihood(pairs, lora=lora)
        assert read == pytest.approx([each["logprob"] for each in found], abs=2e-2)  # bfloat16
    with pytest.raises(ModelNotFoundError, match="test/adapter"):
        service.classify("what a day", lora="test/adaptor", **options)
    with pytest.raises(ValueError, match="lora is for a text model, and the call has no labels"):
        service.classify("what a day", lora=adapter)


def test_an_adapter_that_does_not_load_fails_its_calls_alone(
    model_root: Path, tmp_path: Path
) -> None:
    base = get_model(CHAT_MODEL, root=model_root)
    folder = _write_adapter(tmp_path / "broken", base.path, rank=4, target="no_such_proj")
    import_model("test/broken-adapter", folder, root=model_root)
    folder = _write_adapter(tmp_path / "sound", base.path, rank=4)
    import_model("test/sound-adapter", folder, root=model_root)
    config = {
        "model_id": CHAT_MODEL,
        "model_root": model_root,
        "engine": {"enable_lora": True, "max_lora_rank": 8, "kv_cache_memory_bytes": 64 << 20},
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    with VLLMService(config) as service:
        for _ in range(2):
            with pytest.raises(InvalidRequestError, match="'test/broken-adapter' does not load"):
                service.generate("Hello", lora="test/broken-adapter")
        plain = service.generate("Hello")[0]["text"]
        assert service.generate("Hello", lora="test/sound-adapter")[0]["text"] != plain
        assert service.stats()["restarts"] == 0


def test_adapters_are_not_mixed_up_when_the_engine_is_built_again(
    model_root: Path, tmp_path: Path, slow_steps: Any
) -> None:
    base = get_model(CHAT_MODEL, root=model_root)
    names = ("test/adapter-a", "test/adapter-b")
    for seed, name in enumerate(names):
        folder = _write_adapter(tmp_path / name, base.path, rank=4, seed=seed)
        import_model(name, folder, root=model_root)
    config = {
        "model_id": CHAT_MODEL,
        "model_root": model_root,
        "engine_mode": "inline",
        "engine": {
            "dtype": "float32",
            "enable_lora": True,
            "max_loras": 2,
            "max_lora_rank": 8,
            "kv_cache_memory_bytes": 64 << 20,
        },
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    a, b = names
    with VLLMService(config) as service:
        text_of = {name: service.generate("Hello", lora=name)[0]["text"] for name in names}
        assert text_of[a] != text_of[b]
        assert 25 <= steps_of_both(service, slow_steps, a, b) <= 28  # they share a batch
        folder = _write_adapter(tmp_path / "again", base.path, rank=4, seed=7)
        first = get_model(a, root=model_root).commit
        assert import_model(a, folder, root=model_root).commit != first
        text_of[f"{a}@{first}"], text_of[a] = (
            text_of[a],
            service.generate("Hello", lora=a)[0]["text"],
        )
        both = [{"prompt": "Hello", "options": {"lora": name}} for name in (a, f"{a}@{first}")]
        for _ in range(3):  # two commits of one adapter, in one batch, are two adapters
            old_and_new = [result["text"] for result in service.generate(both)]
            assert old_and_new == [text_of[a], text_of[f"{a}@{first}"]]
        engine: Any = service._engines.engine(Role.GENERATE)
        driver = engine._driver
        with slow_steps(service):
            again = service.generate_async("Hello", lora=b, max_tokens=300, ignore_eos=True)
            driver.inbox.tell(EngineDied(driver._runtime_number))
        assert again.result()[0]["text"].startswith(text_of[b])
        assert service.stats()["restarts"] == 1
        assert service.generate("Hello", lora=a)[0]["text"] == text_of[a]
        assert service.generate("Hello", lora=b)[0]["text"] == text_of[b]


def test_an_engine_without_lora_says_how_to_have_it(service: VLLMService, tmp_path: Path) -> None:
    root = service.config.model_root
    assert root is not None
    folder = _write_adapter(tmp_path / "a", get_model(CHAT_MODEL, root=root).path, rank=4)
    import_model("test/other-adapter", folder, root=root)
    with pytest.raises(ValueError, match="'enable_lora': True"):
        service.generate("Hello", lora="test/other-adapter")


# -- figures --------------------------------------------------------------------------------------


def test_stats_and_health_tell_what_goes_on(service: VLLMService, slow_steps: Any) -> None:
    shared = "the very same beginning of a prompt, " * 8
    service.generate(shared + "one")
    service.generate(shared + "two")
    with slow_steps(service, 0.05):
        futures = [
            service.generate_async(f"busy {n}", max_tokens=300, ignore_eos=True) for n in range(20)
        ]
        until = time.monotonic() + 60
        while (stats := service.stats())["waiting"] != 4 and time.monotonic() < until:
            threading.Event().wait(0.001)
    assert stats["running"] == 16
    assert stats["waiting"] == 4
    assert stats["in_flight"] == 20
    assert 0 < stats["kv_cache_usage"] <= 1
    assert stats["prefix_cache_hit_rate"] > 0
    for future in futures:
        future.cancel()
    assert_idle(service)
    stats = service.stats()
    assert stats["latency_seconds"]["p50"] <= stats["latency_seconds"]["p99"]
    assert stats["tokens_per_second"] > 0
    assert stats["state"] == "ready"
    health = service.process({"task": "health"})
    assert health["engines"]["text"] == {"model_id": CHAT_MODEL, "state": "ready", "restarts": 0}


def test_prometheus_reads_the_figures(service: VLLMService) -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(VLLMServiceCollector(service))
    done = service.stats()["requests_done"]
    labels = {"model_id": CHAT_MODEL, "role": "text", "name": "text"}
    service.generate("one more")
    assert registry.get_sample_value("sage_vllm_requests_done_total", labels) == done + 1
    assert registry.get_sample_value("sage_vllm_up", {"state": "ready"}) == 1
    text = prometheus_client.generate_latest(registry).decode()
    assert "sage_vllm_latency_seconds" in text
    assert "sage_vllm_kv_cache_usage" in text


def assert_idle(service: VLLMService) -> None:
    """The engine takes aborts between two steps: a short request passes behind them."""
    service.generate("behind", max_tokens=1)
    assert service.stats()["in_flight"] == 0


def steps_of_both(service: VLLMService, slow_steps: Any, *adapters: str) -> int:
    """Return how many steps two texts of 25 tokens take, each of another adapter."""
    before = service.stats()["steps"]
    options = {"max_tokens": 25, "ignore_eos": True}
    with slow_steps(service, 2.0):  # both are asked for within the first step
        both = service.generate_async(
            [{"prompt": "Hello", "options": {"lora": name, **options}} for name in adapters]
        )
    both.result()
    steps: int = service.stats()["steps"] - before
    return steps


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _write_adapter(
    folder: Path, base: Path, *, rank: int, target: str = "q_proj", seed: int = 1
) -> Path:
    config = json.loads((base / "config.json").read_text())
    hidden = config["hidden_size"]
    noise = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name in (target, "o_proj"):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for part, shape in (("lora_A", (rank, hidden)), ("lora_B", (hidden, rank))):
                weights = noise.normal(scale=0.5, size=shape)
                tensors[f"{stem}.{part}.weight"] = weights.astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": [target, "o_proj"],
        "base_model_name_or_path": CHAT_MODEL,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    return folder
