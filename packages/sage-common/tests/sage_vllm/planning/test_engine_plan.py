"""What stops a model before an engine is built for it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
from sage.common.components.sage_vllm.errors import EngineError, InvalidOptionError
from sage.common.components.sage_vllm.planning.device import Device
from sage.common.components.sage_vllm.planning.engine_plan import plan_engine
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.planning.memory_estimate import MemoryEstimate
from sage.common.components.sage_vllm.planning.model_files import BrokenModelError
from sage.common.components.sage_vllm.planning.model_trust import (
    PickledWeightsError,
    RemoteCodeError,
)
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model

GB = 10**9
MODEL = "test/m"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


def check(model: Path, *, role: Any = "generate", **options: Any) -> MemoryEstimate:
    known_types = options.pop("known_types", ())
    allowed = {name: options.pop(name) for name in ("arguments", "allow_pickle") if name in options}
    spec = EngineSpec(model_id=MODEL, path=model, role=role, **allowed)
    device = Device(
        **{"kind": "cpu", "dtype": "bfloat16", "free": 20 * GB, "total": 24 * GB, **options}
    )
    plan = plan_engine(spec, device)
    plan.check(known_types)
    return plan.estimate


def test_a_model_that_fits_passes_and_its_estimate_comes_back(model: Path) -> None:
    assert check(model).kv_bytes == (512 + 128) * 1024
    assert check(model, kind="gpu", free=23 * GB).model_id == MODEL


@pytest.mark.parametrize("with_config", [False, True])
def test_an_adapter_is_told_from_a_model(model: Path, with_config: bool) -> None:  # noqa: FBT001
    (model / "model.safetensors").rename(model / "adapter_model.safetensors")
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "me/base", "r": 8}')
    if not with_config:
        (model / "config.json").unlink()
    with pytest.raises(InvalidOptionError, match=r"'test/m' is a LoRA adapter.*load me/base") as it:
        check(model)
    assert (it.value.option, it.value.value) == ("engine.enable_lora", True)


def test_memory_is_checked_last_and_only_where_it_is_known(model: Path) -> None:
    with pytest.raises(InsufficientMemoryError, match="that alone does not fit"):
        check(model, free=GB // 2)
    assert check(model, kind="gpu", free=None, total=None).model_id == MODEL


def test_a_gpu_is_shared_by_vllms_default_unless_told(model: Path) -> None:
    with pytest.raises(InsufficientMemoryError, match=r"a share of 0\.92 of"):
        check(model, kind="gpu")
    check(model, kind="gpu", arguments={"gpu_memory_utilization": 0.5})


def spoil_config(model: Path) -> Path:
    (model / "config.json").write_text('{"model_type": ')
    return model / "config.json"


def lose_config(model: Path) -> Path:
    (model / "config.json").unlink()
    return model / "config.json"


def list_as_config(model: Path) -> Path:
    (model / "config.json").write_text("[]")
    return model / "config.json"


def cut_weights_short(model: Path) -> Path:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return weights


def cut_header_short(model: Path) -> Path:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    return weights


def empty_weights(model: Path) -> Path:
    (model / "model.safetensors").write_bytes(b"")
    return model / "model.safetensors"


def spoil_header(model: Path) -> Path:
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[8:12] = b"\xff\xff\xff\xff"
    weights.write_bytes(content)
    return weights


def header_of_something_else(model: Path) -> Path:
    header = b'{"a": 1}'
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return model / "model.safetensors"


def lose_a_shard(model: Path) -> Path:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return model / "model-2.safetensors"


def spoil_index(model: Path) -> Path:
    (model / "model.safetensors.index.json").write_text("{}")
    return model / "model.safetensors.index.json"


def lose_weights(model: Path) -> Path:
    (model / "model.safetensors").unlink()
    return model


@pytest.mark.parametrize(
    "damage",
    [
        spoil_config,
        lose_config,
        list_as_config,
        cut_weights_short,
        cut_header_short,
        empty_weights,
        spoil_header,
        header_of_something_else,
        lose_a_shard,
        spoil_index,
        lose_weights,
    ],
)
def test_a_damaged_model_names_the_file(model: Path, damage: Callable[[Path], Path]) -> None:
    file = damage(model)
    with pytest.raises(BrokenModelError) as raised:
        check(model)
    error = raised.value
    assert error.path == file
    assert str(file) in str(error)
    assert f"`sage llm model repair {MODEL}`" in str(error)
    assert isinstance(error, EngineError)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path) == (str(error), file)


def test_random_weights_need_no_files(model: Path) -> None:
    lose_weights(model)
    assert check(model, arguments={"load_format": "dummy"}).weight_bytes == 0


def test_pickled_weights_need_permission(model: Path) -> None:
    lose_weights(model)
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(PickledWeightsError, match=r"pytorch_model\.bin.*'allow_pickle'") as raised:
        check(model)
    assert raised.value.files == ("pytorch_model.bin",)
    assert pickle.loads(pickle.dumps(raised.value)).files == ("pytorch_model.bin",)
    assert check(model, allow_pickle=True).weight_bytes == 6


def test_pickled_files_beside_safetensors_are_not_read(model: Path) -> None:
    (model / "training_args.bin").write_bytes(b"pickle")
    assert check(model).weight_bytes > 6


def test_code_of_the_models_own_needs_permission(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    own = {**config, "model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Config"}}
    (model / "config.json").write_text(json.dumps(own))
    (model / "configuration_own.py").write_text("class Config: ...\n")
    way_out = r"embedding_engine={'trust_remote_code': True}"
    with pytest.raises(RemoteCodeError, match=rf"configuration_own\.py.*{way_out}") as raised:
        check(model, role="embed")
    assert raised.value.files == ("configuration_own.py",)
    check(model, arguments={"trust_remote_code": True})
    check(model, known_types={"own"})  # the engine has code for it


def test_code_that_no_engine_needs_is_no_hindrance(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_own.Model"}  # the type is one that all know
    (model / "config.json").write_text(json.dumps(config))
    check(model)


def test_a_role_has_one_name_for_each_use() -> None:
    assert [(role, role.option, role.label) for role in Role] == [
        ("generate", "engine", "text"),
        ("embed", "embedding_engine", "embedding"),
        ("score", "scoring_engine", "scoring"),
    ]
    assert Role.of_tags({"type": "embedding"}) is Role.EMBED
    assert Role.of_tags({"type": "text"}) is Role.of_tags({}) is Role.GENERATE
    named = EngineSpec(model_id=MODEL, path=Path(), role="embed")  # type: ignore[arg-type]
    assert named.role is Role.EMBED
    with pytest.raises(ValueError, match="'rerank' is not a valid Role"):
        EngineSpec(model_id=MODEL, path=Path(), role="rerank")  # type: ignore[arg-type]
