"""Equal requests and kept answers, on a real engine."""

from __future__ import annotations

import random
import time
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.cache.answer_key import engine_fingerprint, request_key
from sage.common.components.sage_vllm.driver.inbox import EngineDied
from sage.common.components.sage_vllm.engine_contract import EngineInfo, EngineSpec, Role
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.service import VLLMService

LONG = {"max_tokens": 100, "ignore_eos": True}


@pytest.fixture
def counted(service: VLLMService) -> Any:
    """A function that returns by how much counters of the engine have grown."""
    before = service.stats()

    def grown(*names: str) -> Any:
        now = service.stats()
        return [now[name] - before[name] for name in names]

    return grown


# -- equal requests in flight ---------------------------------------------------------------------


def test_equal_prompts_in_flight_are_generated_once(
    service: VLLMService, counted: Any, slow_steps: Any
) -> None:
    distinct = [f"prompt number {number}" for number in range(307)]  # 60 % of 512
    prompts = distinct + random.Random(1).choices(distinct[:100], k=205)
    with slow_steps(service):  # the first is not done before the last is asked
        asked = service.generate_async(prompts, **LONG)
    results = asked.result()
    done, shared = counted("requests_done", "requests_shared")
    assert done <= 0.61 * 512
    assert done + shared == 512
    text_of = dict(zip(distinct, (r["text"] for r in results), strict=False))
    assert [result["text"] for result in results] == [text_of[prompt] for prompt in prompts]
    assert len(set(text_of.values())) > 200
    assert all(result["latency"] > 0 for result in results)


def started(service: VLLMService, count: int, **options: Any) -> list[Any]:
    """Start equal calls, and return once they are at work; slowly, or they may be done by then."""
    calls = [
        service.generate_async("the same", **{"max_tokens": 300, "ignore_eos": True, **options})
        for _ in range(count)
    ]
    while not service.stats()["running"]:
        time.sleep(0.001)
    return calls


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_is_cancelled_takes_nothing_from_the_others(
    service: VLLMService, counted: Any, slow_steps: Any, which: int
) -> None:
    with slow_steps(service, 0.05):
        calls = started(service, 3)
        assert calls.pop(which).cancel()
    first, second = (call.result()[0] for call in calls)
    assert first["text"] == second["text"]
    assert first["text"].startswith(service.generate("the same", **LONG)[0]["text"])
    assert first["tokens_used"]["completion"] == 300
    assert counted("requests_shared") == [2]


def test_the_work_ends_when_all_have_cancelled(
    service: VLLMService, counted: Any, slow_steps: Any
) -> None:
    with slow_steps(service, 0.05):
        calls = started(service, 3)
        for call in calls:
            assert call.cancel()
    service.generate("behind", max_tokens=1)
    assert service.stats()["in_flight"] == 0
    assert counted("requests_done") == [1]
    (again,) = service.generate("the same", max_tokens=300, ignore_eos=True)
    assert again["tokens_used"]["completion"] == 300


def test_deadlines_and_streams_are_each_callers_own(
    service: VLLMService, counted: Any, slow_steps: Any
) -> None:
    with slow_steps(service, 0.05):
        (whole,) = started(service, 1)
        hasty = service.generate_async("the same", deadline=0.05, **{**LONG, "max_tokens": 300})
        stream = service.stream("the same", **{**LONG, "max_tokens": 300})
    with stream:
        pieces = list(stream)
    assert hasty.result()[0]["finish_reason"] == "deadline"
    text = whole.result()[0]["text"]
    assert "".join(pieces) == text
    assert text.startswith(hasty.result()[0]["text"])
    assert counted("requests_shared") == [0]


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ({"temperature": 1.5}, 0),
        ({"temperature": 1.5, "seed": 7}, 1),
        ({"temperature": 1.5, "seed": 7, "n": 2}, 1),
        ({"priority": [0, 1]}, 0),
        ({"seed": [1, 2], "temperature": 1}, 0),
        ({"logprobs": [None, 1]}, 0),
    ],
)
def test_only_what_is_determined_and_equal_is_shared(
    service: VLLMService, counted: Any, slow_steps: Any, options: Any, shared: int
) -> None:
    both = [
        {name: value[turn] if isinstance(value, list) else value for name, value in options.items()}
        for turn in (0, 1)
    ]
    with slow_steps(service):
        calls = [service.generate_async("the same", **LONG, **each) for each in both]
    first, second = (call.result()[0] for call in calls)
    assert counted("requests_shared") == [shared]
    greedy = "temperature" not in options
    assert (first["text"] == second["text"]) is (greedy or shared == 1)


def test_an_engine_that_dies_answers_all_of_them_afterwards(
    service: VLLMService, slow_steps: Any
) -> None:
    expected = service.generate("the same", max_tokens=300, ignore_eos=True)[0]["text"]
    with slow_steps(service, 0.05):
        calls = started(service, 3)
        engine: Any = service._engines.engine(Role.GENERATE)
        engine._driver.inbox.tell(EngineDied(engine._driver._runtime_number))
    assert {call.result()[0]["text"] for call in calls} == {expected}


# -- a cache --------------------------------------------------------------------------------------


def cached(results: Any) -> list[bool]:
    return [result.get("cached", False) for result in results]


def kept(service: VLLMService, cache: Path, count: int) -> None:
    """Wait until so many answers are written."""
    until = time.monotonic() + 60
    while True:
        (record,) = [r for r in service.stats()["caches"] if r["folder"] == str(cache)]
        if record["kept"] >= count:
            return
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_second_run_takes_no_step(service: VLLMService, tmp_path: Path, counted: Any) -> None:
    prompts = [f"number {n}" for n in range(50)]
    options: Any = {"cache": tmp_path, "max_tokens": 8, "logprobs": 2, "prompt_logprobs": 1}
    first = service.generate(prompts, **options)
    assert not any(cached(first))
    kept(service, tmp_path, 50)
    steps = service.stats()["steps"]
    second = service.generate(prompts, **options)
    assert all(cached(second))
    assert service.stats()["steps"] == steps
    own = {"latency", "request_id", "cached"}
    plain = [{k: v for k, v in r.items() if k not in own} for r in second]
    assert plain == [{k: v for k, v in r.items() if k not in own} for r in first]
    assert counted("requests_cached", "requests_done") == [50, 50]
    assert service.stats()["caches"][0].items() >= {"hits": 50, "misses": 50, "errors": 0}.items()


def test_streams_deadlines_and_objects_are_answered_from_it(
    service: VLLMService, tmp_path: Path
) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    with service.stream("Hello", cache=str(tmp_path), max_tokens=20, ignore_eos=True) as stream:
        text = "".join(stream)
    (parsed,) = service.generate("Say", json_schema=schema, max_tokens=60, cache=tmp_path)
    pair = service.generate("Hello", n=2, seed=1, temperature=1, cache=tmp_path)
    kept(service, tmp_path, 3)
    options: Any = {"cache": tmp_path, "max_tokens": 20, "ignore_eos": True}
    with service.stream("Hello", **options) as stream:
        assert list(stream) == [text]
        assert stream.result["cached"]
    (hasty,) = service.generate("Hello", deadline=0.000001, **options)
    assert (hasty["text"], hasty["finish_reason"]) == (text, "length")
    (again,) = service.generate("Say", json_schema=schema, max_tokens=60, cache=tmp_path)
    assert again["cached"]
    assert again["parsed"] == parsed["parsed"] is not None
    pair_again = service.generate("Hello", n=2, seed=1, temperature=1, cache=tmp_path)
    assert pair_again[0]["choices"] == pair[0]["choices"]


def test_what_a_deadline_cut_short_is_not_kept(service: VLLMService, tmp_path: Path) -> None:
    options: Any = {"cache": tmp_path, "max_tokens": 400, "ignore_eos": True}
    (short,) = service.generate("Hello there", deadline=0.05, **options)
    assert short["finish_reason"] == "deadline"
    cancelled = service.generate_async("Hello there", **options)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result()
    (whole,) = service.generate("Hello there", **options)
    assert cached([whole]) == [False]
    assert whole["finish_reason"] == "length"


def test_answers_at_random_are_neither_kept_nor_found(
    service: VLLMService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = {
        service.generate("Hello", temperature=1.5, max_tokens=20, cache=tmp_path)[0]["text"]
        for _ in range(4)
    }
    assert len(texts) > 1
    (warning,) = [r.message for r in caplog.records if "drawn at random" in r.message]
    assert "pass temperature=0, or a seed" in warning


def test_each_change_of_a_call_is_a_miss(service: VLLMService, tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Hello"}]
    base: dict[str, Any] = {"max_tokens": 8, "cache": tmp_path}
    service.generate(asked, **base)
    kept(service, tmp_path, 1)
    assert cached(service.generate(asked, **{**base, "temperature": 0.0, "priority": 3})) == [True]
    changes: list[tuple[Any, dict[str, Any]]] = [
        ([{"role": "user", "content": "Hello!"}], {}),
        ([{"role": "system", "content": ""}, *asked], {}),
        ("Hello", {}),  # no template
        (asked, {"max_tokens": 9}),
        (asked, {"stop": ["x"]}),
        (asked, {"logprobs": 1}),
        (asked, {"temperature": 1, "seed": 1}),
        (asked, {"repetition_penalty": 1.1}),
        (asked, {"choice": ["yes", "no"]}),
        (asked, {"regex": "[a-z]+"}),
    ]
    for prompt, change in changes:
        assert cached(service.generate(prompt, **{**base, **change})) == [False], change


def test_a_prompt_cannot_choose_a_folder(service: VLLMService, tmp_path: Path) -> None:
    item = {"prompt": "Hello", "options": {"cache": str(tmp_path / "x")}}
    with pytest.raises(InvalidOptionError, match="cache in the options of a prompt"):
        service.generate(item)
    assert not (tmp_path / "x").exists()


def test_a_services_cache_is_its_calls_default(model_root: Path, tmp_path: Path) -> None:
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "engine": {"max_num_seqs": 8, "kv_cache_memory_bytes": 32 << 20},
        "sampling": {"temperature": 0, "max_tokens": 8},
        "cache": {"folder": tmp_path, "max_bytes": "1MB"},
    }
    with VLLMService(config) as service:
        assert cached(service.generate(["Hello", "there"])) == [False, False]
    # Another engine, with more memory and a larger batch, has the same answers.
    config["engine"] = {"max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20}
    with VLLMService(config) as service:
        assert cached(service.generate(["Hello", "there", "new"])) == [True, True, False]
        assert cached(service.generate("Hello", cache=None)) == [False]
        assert service.stats()["steps"] > 0
        assert service.generate("Hello")[0]["cached"]


# -- keys -----------------------------------------------------------------------------------------


def test_each_change_of_an_engine_is_another_fingerprint() -> None:
    spec = EngineSpec(model_id="org/model", path=Path("/models/org/model/c1"))
    info = EngineInfo(
        model_id="org/model",
        mode="inline",
        dtype="float32",
        max_model_len=512,
        max_batch_size=16,
        start_seconds=1.0,
        version="0.32.0",
        device="cpu",
    )
    first = engine_fingerprint(spec, info)
    same = replace(spec, mode="process", arguments={"max_num_seqs": 4, "enable_lora": True})
    assert engine_fingerprint(same, replace(info, mode="process", max_batch_size=4)) == first
    others = [
        engine_fingerprint(replace(spec, path=Path("/models/org/model/c2")), info),
        engine_fingerprint(replace(spec, model_id="org/other"), info),
        engine_fingerprint(replace(spec, arguments={"hf_overrides": {"x": 1}}), info),
        engine_fingerprint(replace(spec, arguments={"kv_cache_dtype": "fp8"}), info),
        engine_fingerprint(spec, replace(info, dtype="bfloat16")),
        engine_fingerprint(spec, replace(info, quantization="awq")),
        engine_fingerprint(spec, replace(info, version="0.33.0")),
        engine_fingerprint(spec, replace(info, device="cuda")),
    ]
    assert len({first, *others}) == 9


def test_a_request_is_known_by_tokens_options_and_adapter() -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    def key(ids: list[int], adapter: str = "", **options: Any) -> bytes | None:
        rendered = {"type": "token", "prompt_token_ids": ids}
        params = SamplingParams(**{"temperature": 0, **options})
        return request_key(rendered, params, 512, adapter=adapter)

    first = key([1, 2, 3])
    assert first == key([1, 2, 3], output_kind=RequestOutputKind.CUMULATIVE)
    assert first == key([1, 2, 3], top_p=0.5)  # which does nothing at a temperature of 0
    assert key([1, 2], max_tokens=600) == key([1, 2], max_tokens=510)  # the room that there is
    keys = {first, key([1, 2]), key([1, 2, 4]), key([1, 2, 3], "a@c1"), key([1, 2, 3], "a@c2")}
    keys |= {key([1, 2, 3], max_tokens=17), key([1, 2, 3], stop=["x"]), key([1, 2, 3], seed=1)}
    assert len(keys) == 8
    assert None not in keys
    assert key([1], temperature=1.0) is None
    assert key([1], temperature=1.0, seed=3) is not None
    assert key([1], extra_args={"x": object()}) is None
    params = SamplingParams(temperature=0)
    assert request_key({"type": "multimodal", "prompt_token_ids": [1]}, params, 512) is None
    salted = {"type": "token", "prompt_token_ids": [1], "cache_salt": "x"}
    assert request_key(salted, params, 512) is None
