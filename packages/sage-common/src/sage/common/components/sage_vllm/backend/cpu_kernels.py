"""What engines on a CPU compute otherwise than vLLM: fused norms, rotations of separate heads.

vLLM's library for the CPU has kernels for RMSNorm, and vLLM 0.32 registers them for GPUs alone: on
a CPU it computes each norm as a chain of six torch operations. Here they are registered with
vLLM's IR, the place that it has for them, under a provider of our own.

The library's kernels for activations (``silu_and_mul``, ``gelu_and_mul`` and the like) stay unused:
their exponentials are computed one by one, and torch's take a third to a tenth of the time.

The library's kernel for rotations is used by vLLM, and takes for granted that all heads of a token
are one row. Some models (DeepSeek-V2 and V3, LFM2) give it a row for each head.
"""

# ruff: noqa: ARG001 - vLLM requires the parameters of its own computation, used or not

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from torch import Tensor

PROVIDER = "sage_cpu"
_VECTOR = 8  # the kernels refuse rows that are no multiple of this


def register_cpu_kernels() -> None:
    """Register the kernels in this process, once; each process of an engine needs that.

    What the norms' kernels cannot compute they decline, and vLLM computes it as ever: other types
    than bfloat16, float16 and float32, weights of another type than the input's, rows of odd
    length. They also take for granted that rows lie one behind the other, and read others wrongly
    without a word; so does what they write in place. Heads of any layout are rotated from here on.
    """
    import torch
    from vllm import ir
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
    from vllm.platforms import current_platform

    if PROVIDER in ir.ops.rms_norm.impls:
        return
    rotate_separate_heads(RotaryEmbedding)
    current_platform.import_kernels()
    kernels = torch.ops._C  # noqa: SLF001 - the name of vLLM's library
    types = {torch.bfloat16, torch.float16, torch.float32}

    def fits(x: Tensor, weight: Tensor | None, variance_size: int | None) -> bool:
        return (
            x.dtype in types
            and x.shape[-1] % _VECTOR == 0
            and variance_size is None
            and (weight is None or (weight.dtype == x.dtype and weight.is_contiguous()))
        )

    def norm_fits(
        x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> bool:
        return fits(x, weight, variance_size)

    def rms_norm(
        x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> Tensor:
        output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        kernels.rms_norm(output, x.contiguous(), weight, epsilon)
        return output

    def sum_norm_fits(
        x: Tensor,
        x_residual: Tensor,
        weight: Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> bool:
        return (
            fits(x, weight, variance_size)
            and (x_residual.dtype, x_residual.shape) == (x.dtype, x.shape)
            and x.is_contiguous()
            and x_residual.is_contiguous()
        )

    def fused_add_rms_norm(
        x: Tensor,
        x_residual: Tensor,
        weight: Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        kernels.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual

    for kernel in (rms_norm, fused_add_rms_norm):  # vLLM compares them with those of its own
        kernel.__annotations__ = get_type_hints(kernel, localns={"Tensor": torch.Tensor})
    ir.ops.rms_norm.register_impl(PROVIDER, supports_args=norm_fits)(rms_norm)
    ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=sum_norm_fits, inplace=True)(
        fused_add_rms_norm
    )


def kernel_priorities() -> dict[str, list[str]]:
    """Return the engine option ``ir_op_priority`` that puts these kernels before vLLM's own."""
    return {name: [PROVIDER, "native"] for name in ("rms_norm", "fused_add_rms_norm")}


def rotate_separate_heads(rotary_embedding: type[Any]) -> None:
    """Have vLLM's ``RotaryEmbedding`` rotate heads on a CPU that are not one row per token.

    Its kernel takes the step from head to head for that from token to token, and rotates each token
    by the angles of others: wrong texts, without a word.
    """
    rotate = rotary_embedding.forward_cpu
    if rotate.__module__ == __name__:
        return

    @wraps(rotate, assigned=())
    def rotate_rows(
        self: Any, positions: Tensor, query: Tensor, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        given = [query] if key is None else [query, key]
        rows = [one if one.dim() == positions.dim() + 1 else one.flatten(-2) for one in given]
        rotate(self, positions, *rows)  # in place, where flatten has made no copy
        rotated = [row.view_as(one) for row, one in zip(rows, given, strict=True)]
        return rotated[0], None if key is None else rotated[1]

    rotary_embedding.forward_cpu = rotate_rows
