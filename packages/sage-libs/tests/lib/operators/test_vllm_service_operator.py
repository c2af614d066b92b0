"""The operators over the shipped engine without weights: it answers a prompt with its words."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Generation
from sage.common.components.sage_vllm.errors import EngineDeadError, PromptTooLongError
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.common.core.errors import RecordTimeoutError
from sage.common.core.functions import AsyncMapFunction, MapFunction
from sage.common.service import ServiceNotFoundError
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.vllm_service import VLLMEmbeddingOperator, VLLMServiceGenerator

pytestmark = pytest.mark.timeout(240)

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "who are you"},
]


# -- forms of records -------------------------------------------------------------------------


def test_a_string_becomes_a_dict_with_its_text_and_details(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(env, ["one two three"], VLLMServiceGenerator, max_tokens=2)
    details = record.pop("generation")
    assert record == {"prompt": "one two three", "generated": "one two"}
    assert details["finish_reason"] == "length"
    assert details["tokens_used"] == {"prompt": 3, "completion": 2, "total": 5}
    assert details["model_id"] == "test/echo"
    assert "text" not in details


def test_a_dict_comes_out_as_an_enriched_copy(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(env, [{"id": 7, "prompt": "hello"}], VLLMServiceGenerator)
    assert (record["id"], record["prompt"], record["generated"]) == (7, "hello", "hello")


def test_a_dict_may_hold_a_conversation(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(env, [{"prompt": CONVERSATION}], VLLMServiceGenerator)
    assert (record["prompt"], record["generated"]) == (CONVERSATION, "who are you")


def test_a_conversation_is_one_prompt(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(env, [CONVERSATION], VLLMServiceGenerator)
    assert (record["prompt"], record["generated"]) == (CONVERSATION, "who are you")


def test_token_ids_are_one_prompt_wherever_they_stand(env: LocalEnvironment, run: Any) -> None:
    records = [[7, 8], {"id": 1, "prompt": [7, 8]}, [{"id": 2}, [7, 8]], [9]]
    out = run(env, records, VLLMServiceGenerator)
    assert [record["generated"] for record in out] == ["7 8", "7 8", "7 8", "9"]
    assert out[0]["prompt"] == [7, 8]
    assert [record.get("id") for record in out[1:3]] == [1, 2]


def test_token_ids_take_no_system_prompt(env: LocalEnvironment, run: Any) -> None:
    with pytest.raises(ValueError, match=r"token ids take no system_prompt, here 'Be brief\.'"):
        run(env, [{"prompt": [7, 8]}], VLLMServiceGenerator, system_prompt="Be brief.")


def test_a_picture_that_cannot_be_read_is_its_records_error(
    env: LocalEnvironment, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 1 1 255\n\0\0\0")
    records = []
    for name in ("a.ppm", "none.ppm", "a.ppm"):
        part = {"type": "image", "image": str(tmp_path / name)}
        text = {"type": "text", "text": "What is it?"}
        records.append({"name": name, "prompt": [{"role": "user", "content": [part, text]}]})
    failed: list[FailedRecord] = []
    out = run(env, records, VLLMServiceGenerator, on_error=failed.append)
    assert [record["prompt"] for record in out] == [records[0]["prompt"], records[2]["prompt"]]
    assert out[0]["generated"].endswith("What is it?")
    assert [letter.record["name"] for letter in failed] == ["none.ppm"]
    assert "there is no such file" in str(failed[0].error)


@pytest.mark.parametrize("pair", [list, tuple])
@pytest.mark.parametrize("prompt", ["who are you", CONVERSATION])
def test_a_pair_keeps_what_the_prompt_was_made_from(
    env: LocalEnvironment, pair: Any, prompt: Any, run: Any
) -> None:
    out = run(env, [pair([{"id": 7}, prompt]), pair(["text", prompt])], VLLMServiceGenerator)
    assert out[0]["id"] == 7
    assert out[0]["generated"] == "who are you"
    assert out[1] == ["text", "who are you"]


def test_keys_are_configurable(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(
        env,
        [{"question": "what now"}],
        VLLMServiceGenerator,
        prompt_key="question",
        output_key="answer",
        details_key="how",
    )
    assert (record["question"], record["answer"]) == ("what now", "what now")
    assert set(record) == {"question", "answer", "how"}


def test_details_can_be_left_out(env: LocalEnvironment, run: Any) -> None:
    out = run(env, ["hi"], VLLMServiceGenerator, details_key=None)
    assert out == [{"prompt": "hi", "generated": "hi"}]


# -- what is wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"text": "hello"},
            "the record has no key 'prompt'; it has ['text']; prompt_key= says which it is",
        ),
        ([{"prompt": "a"}, {"prompt": "b"}], "emit them one by one, by flatmap()"),
        (7, "a record must be a string, a dict with the key 'prompt', or [original, prompt]"),
        (None, "not None, as a function without a return gives"),
        ([], "a record must be a string"),
        (["only one"], "a record must be a string"),
        ({"prompt": None}, "the prompt must be"),
        ({"prompt": ""}, "the prompt is empty"),
        ("", "the prompt is empty"),
        ("word " * 600, "512 tokens, and this prompt has 600"),
    ],
)
def test_a_bad_record_fails_with_what_is_wrong_and_alone(
    env: LocalEnvironment, record: Any, message: str, run: Any
) -> None:
    letters: list[FailedRecord] = []
    out = run(env, ["good", record, "too"], VLLMServiceGenerator, on_error=letters.append)
    assert [r["generated"] for r in out] == ["good", "too"]
    (letter,) = letters
    assert letter.record == record
    assert isinstance(letter.error, ValueError)
    assert message in str(letter.error)


def test_a_bad_record_stops_the_pipeline_by_default(env: LocalEnvironment, run: Any) -> None:
    with pytest.raises(ValueError, match="has no key 'prompt'") as caught:
        run(env, ["good", {"text": "hello"}], VLLMServiceGenerator)
    assert caught.value.__notes__ == [
        "in operator 'VLLMServiceGenerator' on record {'text': 'hello'}"
    ]


def test_a_bad_record_can_be_skipped(env: LocalEnvironment, run: Any) -> None:
    out = run(env, ["a", 7, "b"], VLLMServiceGenerator, on_error="skip")
    assert [record["generated"] for record in out] == ["a", "b"]


def test_an_unknown_sampling_option_is_refused_before_any_record_moves(
    env: LocalEnvironment,
) -> None:
    def no_record() -> Any:
        raise AssertionError("a record moved")

    env.from_source(no_record).map(VLLMServiceGenerator, max_token=5)
    with pytest.raises(ValueError, match="'max_token' in VLLMServiceGenerator; did you mean 'max"):
        env.submit()


def test_a_misspelt_argument_of_the_operator_names_it() -> None:
    with pytest.raises(ValueError, match=r"option 'prompt_tempalte' in .*; did you mean 'prompt_t"):
        VLLMServiceGenerator(prompt_tempalte="{text}")


def test_an_unknown_service_names_the_nearest(env: LocalEnvironment, run: Any) -> None:
    with pytest.raises(ServiceNotFoundError, match="did you mean 'vllm_service'"):
        run(env, ["a"], VLLMServiceGenerator, "vlm_service")


# -- in flight --------------------------------------------------------------------------------


class HoldingEngine(EchoEngine):
    """Holds requests until ``batch`` of them are there, then answers the newest first."""

    batch = 4

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self.held: list[tuple[Future[Any], Future[Generation]]] = []
        type(self).most = 0

    most = 0

    def submit(self, prompt: Any, options: Mapping[str, Any], *rest: Any) -> Future[Any]:
        held: Future[Any] = Future()
        self.held.append((held, super().submit(prompt, options, *rest)))
        type(self).most = max(self.most, len(self.held))
        if len(self.held) == self.batch:
            for future, answer in reversed(self.held):
                future.set_result(answer.result())
            self.held.clear()
        return held


@pytest.mark.parametrize("ordered", [True, False])
def test_order_is_kept_unless_it_is_given_up(environment: Any, run: Any, *, ordered: bool) -> None:
    env = environment(HoldingEngine)
    records = [f"record {n}" for n in range(40)]
    out = [r["generated"] for r in run(env, records, VLLMServiceGenerator, ordered=ordered)]
    assert sorted(out) == sorted(records)
    assert (out == records) is ordered


def test_as_many_records_are_in_flight_as_the_service_can_use(environment: Any, run: Any) -> None:
    class Wide(HoldingEngine):
        batch = 128  # twice the engine's batch size, which is what the service advertises

    env = environment(Wide)
    assert len(run(env, [f"record {n}" for n in range(256)], VLLMServiceGenerator)) == 256
    assert Wide.most == 128


def test_the_window_can_be_set(environment: Any, run: Any) -> None:
    env = environment(HoldingEngine)
    assert len(run(env, ["a"] * 40, VLLMServiceGenerator, max_in_flight=4)) == 40
    assert HoldingEngine.most == 4


def test_a_record_that_takes_too_long_is_aborted_in_the_engine(environment: Any, run: Any) -> None:
    requests: list[Future[Generation]] = []

    class Stuck(EchoEngine):
        def submit(self, prompt: Any, options: Mapping[str, Any], *rest: Any) -> Future[Any]:
            requests.append(Future())
            return requests[-1]

    with pytest.raises(RecordTimeoutError, match="'VLLMServiceGenerator' had no result within"):
        run(environment(Stuck), ["a"] * 10, VLLMServiceGenerator, timeout=0.05)
    assert requests
    assert all(request.cancelled() for request in requests)


@pytest.mark.parametrize("retries", [0, 2])
def test_a_record_is_tried_again_when_the_engine_failed(
    environment: Any, retries: int, run: Any
) -> None:
    attempts: list[Any] = []

    class DiesOnce(EchoEngine):
        def submit(self, prompt: Any, options: Mapping[str, Any], *rest: Any) -> Future[Any]:
            attempts.append(prompt)
            if len(attempts) == 1:
                failed: Future[Generation] = Future()
                failed.set_exception(EngineDeadError("test/echo", "out of memory"))
                return failed
            return super().submit(prompt, options, *rest)

    class Impatient(VLLMServiceGenerator):
        retry_backoff = 0.001

    env = environment(DiesOnce)
    if retries:
        (record,) = run(env, ["hello"], Impatient, retries=retries)
        assert record["generated"] == "hello"
    else:
        with pytest.raises(EngineDeadError, match="out of memory"):
            run(env, ["hello"], Impatient)
    assert len(attempts) == min(retries, 1) + 1


def test_a_prompt_that_the_engine_refuses_is_not_tried_again(
    env: LocalEnvironment, run: Any
) -> None:
    letters: list[FailedRecord] = []
    run(env, ["word " * 600], VLLMServiceGenerator, retries=3, on_error=letters.append)
    assert [letter.attempts for letter in letters] == [1]
    assert isinstance(letters[0].error, PromptTooLongError)


# -- embedding --------------------------------------------------------------------------------


def test_embedding_puts_a_vector_beside_the_text(env: LocalEnvironment, run: Any) -> None:
    records = ["hello", {"id": 1, "text": "hello"}, ["original", "hello"], [{"id": 2}, "hello"]]
    with_string, with_dict, pair, with_original = run(env, records, VLLMEmbeddingOperator)
    vector = with_string["embedding"]
    assert sum(x * x for x in vector) == pytest.approx(1)
    assert with_string == {"text": "hello", "embedding": vector}
    assert with_dict == {"id": 1, "text": "hello", "embedding": vector}
    assert pair == ["original", vector]
    assert with_original == {"id": 2, "embedding": vector}


def test_embedding_keys_and_normalisation_are_configurable(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(
        env, [{"body": "hello"}], VLLMEmbeddingOperator,
        text_key="body", output_key="vector", normalize=False,
    )  # fmt: skip
    assert set(record) == {"body", "vector"}
    assert sum(x * x for x in record["vector"]) > 2


def test_what_is_no_text_cannot_be_embedded(env: LocalEnvironment, run: Any) -> None:
    letters: list[FailedRecord] = []
    run(env, [7, "", {"prompt": "x"}], VLLMEmbeddingOperator, on_error=letters.append)
    assert [letter.record for letter in letters] == [7, "", {"prompt": "x"}]
    assert all(isinstance(letter.error, ValueError) for letter in letters)


# -- the operators themselves -----------------------------------------------------------------


@pytest.mark.parametrize("operator", [VLLMServiceGenerator, VLLMEmbeddingOperator])
def test_operators_are_maps_that_describe_picklable_pipelines(
    env: LocalEnvironment, operator: type[AsyncMapFunction]
) -> None:
    assert issubclass(operator, AsyncMapFunction)
    assert issubclass(operator, MapFunction)
    env.from_collection(["a"]).map(operator, timeout=5, max_in_flight=3)
    assert pickle.loads(pickle.dumps(env.operators)) == env.operators
