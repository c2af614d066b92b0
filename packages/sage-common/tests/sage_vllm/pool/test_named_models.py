"""Named models: which one a call reaches, how it is loaded, what a configuration may say."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_embedding import get_embedding_model
from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.errors import (
    EngineStartError,
    InvalidOptionError,
    PromptTooLongError,
)
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine, write_echo_model
from sage.common.model_registry.vllm_registry import (
    ModelNotFoundError,
    delete_model,
    import_model,
)

Open = Callable[..., VLLMService]


class Recorder:
    """Makes echo engines, and remembers of what, and with which options they were called."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.options: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, spec: EngineSpec) -> EchoEngine:
        if spec.model_id == "test/broken":
            raise EngineStartError(spec.model_id, "it is broken")
        self.built.append(spec.model_id)
        engine = EchoEngine(spec)
        submit = engine.submit

        def noted(prompt: Any, options: Any, on_text: Any = None) -> Any:
            self.options.append((spec.model_id, dict(options)))
            return submit(prompt, options, on_text)

        engine.submit = noted  # type: ignore[method-assign]  # as a spy, on a real engine
        return engine


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def open_service(root: Path, recorder: Recorder) -> Iterator[Open]:
    with ExitStack() as stack:

        def opened(models: dict[str, Any] | None = None, **settings: Any) -> VLLMService:
            config = {"model_root": root, "models": models or {}, **settings}
            return stack.enter_context(VLLMService(config, engine_factory=recorder))

        yield opened


TWO = {"writer": {"model_id": "test/one"}, "judge": {"model_id": "test/other"}}


# -- which model a call reaches -------------------------------------------------------------------


def test_each_call_reaches_the_model_it_names_and_loads_it_at_its_first_use(
    open_service: Open, recorder: Recorder
) -> None:
    service = open_service(TWO)
    assert recorder.built == []
    (answer,) = service.generate("hello", model="judge")
    assert answer["model_id"] == "test/other"
    assert recorder.built == ["test/other"]
    assert service.generate("hello", model="writer")[0]["model_id"] == "test/one"
    assert service.generate("hello", model="judge")[0]["model_id"] == "test/other"
    assert recorder.built == ["test/other", "test/one"]
    assert all("model" not in options for _, options in recorder.options)


def test_every_way_to_call_takes_the_models_name(open_service: Open) -> None:
    models = {**TWO, "vectors": {"model_id": "test/vectors", "role": "embed"}}
    service = open_service(models)
    with service.stream("to the judge", model="judge") as stream:
        assert "".join(stream) == "to the judge"
    assert stream.result["model_id"] == "test/other"
    assert service.generate_async("hi", model="writer").result()[0]["model_id"] == "test/one"
    payload = {"task": "generate", "inputs": "hi", "options": {"model": "judge"}}
    assert service.process(payload)[0]["model_id"] == "test/other"
    assert service.embed("hi", model="vectors")["model_id"] == "test/vectors"
    payload = {"task": "embed", "inputs": ["hi"], "options": {"model": "vectors"}}
    assert service.process(payload)["model_id"] == "test/vectors"
    assert service.count_tokens("one two", model="judge") == [2]
    assert service.count_tokens("one two", model="vectors") == [2]
    assert service.embed("hi")["model_id"] == "test/vectors"  # the only one that embeds


def test_the_prompts_of_one_call_may_name_several_models(open_service: Open) -> None:
    service = open_service(TWO)
    prompts = [
        {"prompt": f"number {n}", "options": {"model": "judge" if n % 3 else "writer"}}
        for n in range(9)
    ]
    answers = service.generate(prompts)
    assert [answer["text"] for answer in answers] == [f"number {n}" for n in range(9)]
    expected = ["test/other" if n % 3 else "test/one" for n in range(9)]
    assert [answer["model_id"] for answer in answers] == expected
    mixed = service.generate(
        ["by default", {"prompt": "own", "options": {"model": "judge"}}], model="writer"
    )
    assert [answer["model_id"] for answer in mixed] == ["test/one", "test/other"]


def test_an_error_among_several_models_is_its_own_prompts(open_service: Open) -> None:
    models = {**TWO, "broken": {"model_id": "test/broken"}}
    service = open_service(models)
    long = {"prompt": "word " * 600, "options": {"model": "judge"}}
    with pytest.raises(PromptTooLongError, match="prompt 1"):
        service.generate(["fine", long], model="writer")
    gone = {"prompt": "lost", "options": {"model": "broken"}}
    answers = service.generate(["fine", gone, long], model="writer", on_error="return")
    assert answers[0]["text"] == "fine"
    assert [answer["error"]["type"] for answer in answers[1:]] == [
        "EngineStartError",
        "PromptTooLongError",
    ]
    assert [answer["model_id"] for answer in answers[1:]] == ["test/broken", "test/other"]
    with pytest.raises(EngineStartError, match="it is broken"):
        service.generate(["fine", gone], model="writer")


def test_a_models_sampling_overrides_the_services_and_a_call_overrides_both(
    open_service: Open, recorder: Recorder
) -> None:
    models = {
        "judge": {"model_id": "test/other", "sampling": {"temperature": 0.0, "max_tokens": 2}},
        "writer": {"model_id": "test/one"},
    }
    service = open_service(models, sampling={"temperature": 0.7, "seed": 3})
    service.generate("a b c", model="judge", max_tokens=1)
    service.generate("a b c", model="writer")
    assert recorder.options == [
        ("test/other", {"temperature": 0.0, "seed": 3, "max_tokens": 1}),
        ("test/one", {"temperature": 0.7, "seed": 3}),
    ]


def test_a_call_that_names_no_model_means_the_text_model_or_the_only_one(
    open_service: Open,
) -> None:
    beside = open_service({"judge": {"model_id": "test/other"}}, model_id="test/one")
    assert beside.generate("hi")[0]["model_id"] == "test/one"
    assert beside.embed("hi")["model_id"] == "test/one"  # converted
    only = open_service({"judge": {"model_id": "test/other"}})
    assert only.generate("hi")[0]["model_id"] == "test/other"
    with pytest.raises(InvalidOptionError, match="several models generate") as error:
        open_service(TWO).generate("hi")
    assert error.value.hint == "pass model=, one of writer, judge"
    with pytest.raises(InvalidOptionError, match="no configured model can embed"):
        only.embed("hi")


def test_a_model_may_be_named_by_its_id_where_one_entry_has_it(open_service: Open) -> None:
    service = open_service(TWO, model_id="test/third")
    assert service.generate("hi", model="test/other")[0]["model_id"] == "test/other"
    twice = open_service({"cold": "test/one", "warm": "test/one"})
    with pytest.raises(InvalidOptionError, match="several entries") as error:
        twice.generate("hi", model="test/one")
    assert error.value.hint == "choose one of cold, warm"


def test_a_model_of_the_registry_is_loaded_on_demand_only_where_that_is_allowed(
    open_service: Open, recorder: Recorder
) -> None:
    strict = open_service(TWO)
    with pytest.raises(InvalidOptionError, match="unknown model 'test/third'") as error:
        strict.generate("hi", model="test/third")
    assert "on_demand=True" in str(error.value.hint)
    with pytest.raises(InvalidOptionError, match="did you mean 'judge'"):
        strict.generate("hi", model="jduge")
    service = open_service(model_id="test/one", on_demand=True)
    built = len(recorder.built)
    for _ in range(3):
        assert service.generate("hi", model="test/third")[0]["model_id"] == "test/third"
    assert service.generate("hi", model="test/one")[0]["model_id"] == "test/one"
    assert recorder.built[built:] == ["test/third"]
    with pytest.raises(InvalidOptionError, match="unknown model 'test/absent'"):
        service.generate("hi", model="test/absent")
    nothing_else = open_service(on_demand=True)
    assert nothing_else.generate("hi", model="test/third")[0]["model_id"] == "test/third"
    with pytest.raises(InvalidOptionError, match="no configured model can generate"):
        nothing_else.generate("hi")


def test_a_model_does_what_it_is_for(open_service: Open) -> None:
    service = open_service({**TWO, "vectors": {"model_id": "test/vectors", "role": "embed"}})
    with pytest.raises(InvalidOptionError, match="'vectors' embeds, and cannot generate") as error:
        service.generate("hi", model="vectors")
    assert error.value.hint == "those that generate: writer, judge"
    with pytest.raises(InvalidOptionError, match="'judge' generates, and cannot embed"):
        service.embed("hi", model="judge")


def test_an_embedding_model_is_one_of_a_services_models(root: Path) -> None:
    models = {name: {"model_id": f"test/{name}", "role": "embed"} for name in ("one", "vectors")}
    config = {"models": models, "model_root": root}
    with get_embedding_model(
        "vllm", config=config, model="vectors", engine_factory=EchoEngine
    ) as model:
        assert model.identity.startswith("vllm test/vectors@")
        assert len(model.embed("hello")) == 8


# -- loading --------------------------------------------------------------------------------------


def test_preloaded_models_are_there_when_the_service_opens(
    open_service: Open, recorder: Recorder
) -> None:
    models = {**TWO, "third": {"model_id": "test/third", "preload": True}}
    service = open_service(models)
    assert recorder.built == ["test/third"]
    states = {name: facts["state"] for name, facts in service.stats()["models"].items()}
    assert states == {"writer": "unloaded", "judge": "unloaded", "third": "ready"}


def test_the_capacity_counts_models_that_are_not_loaded_yet(open_service: Open) -> None:
    few = {"model_id": "test/other", "engine": {"max_num_seqs": 16}}
    embeds = {"model_id": "test/vectors", "role": "embed", "preload": True}
    service = open_service({"few": few, "usual": "test/one", "vectors": embeds})
    assert service.capacity == 2 * (16 + 256)
    service.generate("hi", model="usual")
    assert service.capacity == 2 * (16 + 256)  # an operator has that many in flight already
    assert open_service(model_id="test/one").capacity == 128


def test_a_model_that_is_not_in_the_registry_is_missed_when_the_service_opens(
    open_service: Open, recorder: Recorder
) -> None:
    with pytest.raises(ModelNotFoundError, match="test/absent"):
        open_service({**TWO, "gone": {"model_id": "test/absent"}})
    assert recorder.built == []


def test_a_model_deleted_while_it_is_in_the_table_fails_its_own_callers(
    tmp_path: Path, recorder: Recorder
) -> None:
    root = tmp_path / "registry"
    for name in ("one", "two"):
        import_model(f"own/{name}", write_echo_model(tmp_path / name), root=root)
    config = {"models": {"one": "own/one", "two": "own/two"}, "model_root": root}
    with VLLMService(config, engine_factory=recorder) as service:
        assert service.generate("hi", model="one")
        delete_model("own/two", root=root)
        for _ in range(2):
            with pytest.raises(ModelNotFoundError, match="own/two"):
                service.generate("hi", model="two")
            assert service.generate("hi", model="one")
        assert service.health()["models"] == {"one": "ready", "two": "failed"}
        import_model("own/two", tmp_path / "two", root=root)
        assert service.generate("hi", model="two")
        end = time.monotonic() + 60
        while service.health()["models"]["two"] == "loading":  # its first calls are answered before
            assert time.monotonic() < end
            time.sleep(0.001)
        assert service.health()["models"] == {"one": "ready", "two": "ready"}
        shutil.rmtree(tmp_path / "two")
        assert service.generate("hi", model="two")


# -- what a configuration may say -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"models": {"judge": {"model": "a/b"}}}, "unknown key 'model' in models.judge; did you"),
        ({"models": {"judge": {}}}, "models.judge names no model"),
        ({"models": {"judge": 7}}, "models.judge must be a mapping"),
        ({"models": {"judge": {"model_id": ""}}}, "models.judge.model_id must be the id"),
        ({"models": {"judge": {"model_id": "a/b", "pin": 1}}}, "pin must be True or False, not 1"),
        ({"models": {"judge": {"model_id": "a/b", "role": "embe"}}}, "did you mean 'embed'"),
        (
            {"models": {"judge": {"model_id": "a/b", "keep_alive": -1}}},
            "keep_alive must be seconds",
        ),
        ({"models": {"judge": {"model_id": "a/b", "engine": 3}}}, "engine must be a mapping"),
        ({"models": {"judge": {"model_id": "a/b", "engine_mode": "x"}}}, "one of auto, inline"),
        (
            {"models": {"judge": {"model_id": "a/b", "sampling": {"top": 1}}}},
            "unknown sampling option 'top' in models.judge.sampling",
        ),
        (
            {"models": {"judge": {"model_id": "a/b", "sampling": {"model": "x"}}}},
            "models.judge.sampling cannot choose the model",
        ),
        (
            {"models": {"judge": {"model_id": "a/b", "pin": True, "keep_alive": 5}}},
            "pin and keep_alive",
        ),
        ({"model_id": "a/b", "models": {"text": "c/d"}}, "models.text and model_id are the same"),
        ({"models": {"text": {"model_id": "a/b", "role": "embed"}}}, "models.text cannot embed"),
        ({"model_id": "a/b", "models": {"": "c/d"}}, "named by texts, not ''"),
        ({"model_id": "a/b", "sampling": {"model": "x"}}, "sampling cannot choose the model"),
        ({"model_id": "a/b", "max_wait": "long"}, "max_wait must be seconds"),
        ({"model_id": "a/b", "memory_budget": "much"}, "memory_budget must be bytes"),
        ({"model_id": "a/b", "memory_budget": 0}, "not 0"),
        ({"models": {}}, "names no model"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        VLLMServiceConfig.from_dict(settings)


@pytest.mark.parametrize(
    ("given", "of_a_hundred_gb"),
    [
        (8_000_000_000, 8_000_000_000),
        ("16GB", 16_000_000_000),
        ("1.5 GiB", 1_610_612_736),
        ("800mb", 800_000_000),
        (0.25, 25_000_000_000),
        (1.0, 100_000_000_000),
    ],
)
def test_a_budget_is_bytes_a_text_or_a_share(given: Any, of_a_hundred_gb: int) -> None:
    config = VLLMServiceConfig(model_id="a/b", memory_budget=given)
    assert config.budget is not None
    assert config.budget.of(100_000_000_000) == of_a_hundred_gb
    assert VLLMServiceConfig(model_id="a/b").budget is None


def test_the_text_and_the_embedding_model_are_entries_of_the_table() -> None:
    config = VLLMServiceConfig(model_id="a/b", embedding_model_id="c/d", models={"judge": "e/f"})
    entries = config.entries()
    assert {name: entry.model_id for name, entry in entries.items()} == {
        "text": "a/b",
        "embedding": "c/d",
        "judge": "e/f",
    }
    assert [(entry.pin, entry.preload) for entry in entries.values()] == [
        (True, True),
        (True, True),
        (False, False),
    ]


def test_models_their_commits_and_sampling_are_part_of_a_services_identity(root: Path) -> None:
    models = {"judge": {"model_id": "test/other", "sampling": {"seed": 1}}}
    config = {"model_id": "test/one", "model_root": root}
    alone = VLLMService(config, engine_factory=EchoEngine).checkpoint_identity()
    assert "models" not in alone  # as ever: checkpoints of before go on
    named = VLLMService({**config, "models": models}, engine_factory=EchoEngine)
    identity = named.checkpoint_identity()
    judge = identity.pop("models")["judge"]
    assert identity == alone
    assert (judge["model"], judge["sampling"]) == ("test/other", {"seed": 1})
    assert judge["commit"]


def test_a_text_model_that_is_to_embed_is_warned_of(
    model_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import_model("test/echo", write_echo_model(tmp_path / "echo"), root=model_root)
    for model_id in ("test/echo", "test/tiny-chat"):  # of the first nothing says what it is
        config = {"embedding_model_id": model_id, "model_root": model_root}
        with VLLMService(config, engine_factory=EchoEngine) as service:
            assert service.embed("Hello")["model_id"] == model_id
    (warning,) = warnings(caplog)
    assert warning.startswith("test/tiny-chat is a text model: embedding with it")


def test_two_engines_that_are_equal_are_told_of(
    open_service: Open, caplog: pytest.LogCaptureFixture
) -> None:
    small = {"model_id": "test/one", "engine": {"max_num_seqs": 2}}
    open_service(models={"a": "test/one", "b": small})
    assert not warnings(caplog)
    open_service(models={"a": "test/one", "b": {**small, "engine": {}}, "c": small})
    (said,) = warnings(caplog)
    assert "the models 'a' and 'b' are two engines of 'test/one' with equal" in said


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said: at another level than the usual one, others' records come too."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("sage.")
    ]
