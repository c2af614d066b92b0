"""The fused norms, compared with vLLM's own computation of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from vllm import ir

from sage.common.components.sage_vllm.backend.cpu_kernels import PROVIDER, register_cpu_kernels
from sage.common.components.sage_vllm.service import VLLMService

OPERATIONS = {"rms_norm": ir.ops.rms_norm, "fused_add_rms_norm": ir.ops.fused_add_rms_norm}
TYPES = [torch.bfloat16, torch.float16, torch.float32]
# What is rounded once is up to two units in the last place from what is rounded at each step.
TOLERANCE = {torch.bfloat16: 2**-6, torch.float16: 2**-9, torch.float32: 1e-6}
EPSILON = 1e-5


@pytest.fixture(autouse=True)
def fused_first() -> Any:
    register_cpu_kernels()
    with (
        ir.ops.rms_norm.set_priority([PROVIDER, "native"]),
        ir.ops.fused_add_rms_norm.set_priority([PROVIDER, "native"]),
    ):
        yield


def provider(*arguments: Any) -> str:
    """Return whose computation these arguments would have: a norm's, or a sum's and its norm's."""
    operation = "rms_norm" if len(arguments) == 3 else "fused_add_rms_norm"
    chosen: str = OPERATIONS[operation].dispatch(*arguments).provider
    return chosen


def check(*arguments: Any) -> None:
    operation = OPERATIONS["rms_norm" if len(arguments) == 3 else "fused_add_rms_norm"]
    dtype = arguments[0].dtype
    expected = operation.impls["native"].impl_fn(*arguments)
    inputs = [value.clone() if torch.is_tensor(value) else value for value in arguments]
    assert_close(operation(*arguments), expected, dtype)
    for value, before in zip(arguments, inputs, strict=True):  # a call without "inplace" keeps them
        assert value is before or not torch.is_tensor(value) or torch.equal(value, before)
    if len(arguments) == 4:
        assert_close(operation.maybe_inplace(*arguments), expected, dtype)


def assert_close(found: Any, expected: Any, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[dtype]
    for one, other in zip(
        found if isinstance(found, tuple) else [found],
        expected if isinstance(expected, tuple) else [expected],
        strict=True,
    ):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 8), (5, 24), (3, 40), (0, 64), (2, 3, 128), (257, 512), (64,)]
)
@pytest.mark.parametrize("weighted", [True, False])
def test_a_norm_is_vllms(dtype: torch.dtype, shape: tuple[int, ...], weighted: bool) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    x, residual = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    weight = torch.randn(shape[-1]).to(dtype) if weighted else None
    assert provider(x, weight, EPSILON) == PROVIDER
    assert provider(x, residual, weight, EPSILON) == PROVIDER
    check(x, weight, EPSILON)
    check(x, residual, weight, EPSILON)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 32:96],  # one of several outputs of a projection
        lambda x: x[:, :128].unflatten(-1, (2, 64)),  # heads of a query, as Qwen3 norms them
        lambda x: x[::2, :64],
        lambda x: x[:, ::3],
        lambda x: x[:64].t(),
    ],
    ids=["columns", "heads", "rows", "stride", "transposed"],
)
def test_rows_that_do_not_lie_one_behind_the_other(
    dtype: torch.dtype, view: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    torch.manual_seed(0)
    x = view(torch.randn(192, 192).to(dtype))
    assert not x.is_contiguous()
    weight = torch.randn(x.shape[-1]).to(dtype)
    assert provider(x, weight, EPSILON) == PROVIDER
    check(x, weight, EPSILON)
    packed = torch.randn(x.shape).to(dtype)
    for pair in ((x, packed), (packed, x), (x, x.clone())):
        check(*pair, weight, EPSILON)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("size", [1, 7, 33, 100])
def test_rows_of_odd_length_stay_vllms(dtype: torch.dtype, size: int) -> None:
    x, residual, weight = (
        torch.randn(*shape).to(dtype) for shape in ((4, size), (4, size), (size,))
    )
    assert provider(x, weight, EPSILON) == provider(x, residual, weight, EPSILON) == "native"
    check(x, weight, EPSILON)
    check(x, residual, weight, EPSILON)


def test_what_else_the_kernels_do_not_compute_stays_vllms() -> None:
    x, wide = torch.randn(4, 64, dtype=torch.bfloat16), torch.randn(64)
    narrow = wide.bfloat16()
    assert provider(x, wide, EPSILON) == "native"  # Gemma's norm has its weights in float32
    assert provider(x, x.clone(), wide, EPSILON) == "native"
    assert provider(x, x.float(), narrow, EPSILON) == "native"
    assert provider(x, x[:1], narrow, EPSILON) == "native"
    assert provider(x.double(), wide.double(), EPSILON) == "native"
    assert provider(x, torch.stack([narrow, narrow], -1)[:, 0], EPSILON) == "native"
    part = ir.ops.rms_norm.dispatch(x, narrow, EPSILON, 32)
    assert part.provider == "native"
    part = ir.ops.fused_add_rms_norm.dispatch(x, x.clone(), narrow, EPSILON, 32)
    assert part.provider == "native"


def test_a_second_registration_changes_nothing() -> None:
    before = [operation.impls[PROVIDER] for operation in OPERATIONS.values()]
    register_cpu_kernels()
    assert [operation.impls[PROVIDER] for operation in OPERATIONS.values()] == before


def answers(model_root: Path, mode: Literal["inline", "process"], **engine: Any) -> list[str]:
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "engine_mode": mode,
        "engine": {"kv_cache_memory_bytes": 64 << 20, "dtype": "float32", **engine},
        "sampling": {"temperature": 0, "max_tokens": 16},
    }
    with VLLMService(config) as service:
        return [answer["text"] for answer in service.generate(["Hello", "What is it?"])]


def test_engines_use_them_unless_they_are_told_otherwise(
    model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = {"rms_norm": ["native"], "fused_add_rms_norm": ["native"]}
    with ir.ops.rms_norm.set_priority(["native"]), ir.ops.fused_add_rms_norm.set_priority([]):
        expected = answers(model_root, "inline", ir_op_priority=native)
        assert ir.ops.rms_norm.get_priority() == ["native"]
        assert answers(model_root, "inline") == expected
        assert ir.ops.rms_norm.get_priority() == [PROVIDER, "native"]
        assert ir.ops.fused_add_rms_norm.get_priority() == [PROVIDER, "native"]
    # A worker refuses a provider that is not registered with it; here no plugin is loaded.
    monkeypatch.setenv("VLLM_PLUGINS", "")
    assert answers(model_root, "process") == expected
