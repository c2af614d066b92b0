"""`sage llm bench`: throughput and latency of a model on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.tools.cli.commands.options.engine_options import (
    EngineMode,
    EngineModeOption,
    EngineOptions,
    LoadOptions,
)
from sage.tools.cli.commands.options.model_options import Display, ModelOptions
from sage.tools.cli.terminal.output import write_data, write_json
from sage.tools.cli.terminal.table import Column, write_table

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.config import VLLMServiceConfig
    from sage.common.components.sage_vllm.service import VLLMService

_COLUMNS = (
    Column(title="IN FLIGHT", priority=9, right=True),
    Column(title="REQUESTS/S", priority=6, right=True),
    Column(title="OUTPUT TOKENS/S", priority=8, right=True),
    Column(title="TOTAL TOKENS/S", priority=3, right=True),
    Column(title="LATENCY P50/P95/P99", priority=7, right=True),
    Column(title="FIRST TOKEN P50/P95", priority=5, right=True),
    Column(title="BATCH", priority=4, right=True),
)
_WARM_UP_TOKENS = 4


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the model is measured with."""

    requests: Annotated[
        int, typer.Option(min=1, help="Requests at each level, or as many as are in flight.")
    ] = 32
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of each prompt.")] = 128
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens generated for each.")] = 64
    in_flight: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Levels: how many requests at a time.")
    ] = "1,8,32"

    def levels(self) -> list[int]:
        """How many requests at a time, one level after the other; raises BadParameter."""
        try:
            levels = [int(each) for each in self.in_flight.split(",")]
        except ValueError:
            levels = [0]
        if min(levels) < 1:
            raise typer.BadParameter(
                f"--in-flight takes numbers from 1 on, as in 1,8,32, not {self.in_flight!r}"
            )
        return levels


def bench(
    *,
    model: ModelOptions,
    load: Load,
    engine: EngineOptions,
    engine_mode: EngineModeOption = EngineMode.AUTO,
    loading: LoadOptions,
    display: Display,
) -> None:
    """Measure throughput and latency of a model on this machine.

    Without a model it takes the one used last, or the demo model. Requests go through the service
    in this process; every one of them differs and generates exactly so many tokens. BATCH is how
    many requests the engine worked on at a time, and what share that is of all it can.
    """
    from sage.common.components.sage_vllm.config import VLLMServiceConfig
    from sage.tools.cli.errors import Interrupted
    from sage.tools.cli.models.model_choice import chosen_model
    from sage.tools.cli.run.loading import ShownService
    from sage.tools.cli.terminal.status_line import status_line

    levels = load.levels()
    model_id = chosen_model(
        model.optional_id(),
        model.revision,
        auto_download=loading.auto_download,
        allow_pickle=loading.allow_pickle,
        quiet=display.quiet,
    )
    config = VLLMServiceConfig(
        model_id=model_id,
        revision=model.revision,
        engine_mode=engine_mode.value,
        engine=engine.arguments(),
        allow_pickle=loading.allow_pickle,
    )
    _check_model(config, load)
    try:
        start = time.perf_counter()
        with ShownService(config, quiet=display.quiet) as service:
            started = time.perf_counter() - start
            with status_line(quiet=display.quiet) as show:
                results = _measure(service, load, levels, show)
            report = {**_machine(service, started), "levels": results}
    except KeyboardInterrupt:
        raise Interrupted("Nothing was kept. Fewer --requests or --max-tokens take less.") from None
    if display.as_json:
        write_json(report)
    else:
        _write(report, load)


def _check_model(config: VLLMServiceConfig, load: Load) -> None:
    """Before the model is loaded: that may take minutes."""
    from sage.common.model_registry.vllm_registry import get_model

    tags = get_model(str(config.model_id), config.revision).tags
    if tags.get("type") == "embedding":
        raise typer.BadParameter(
            f"{config.model_id} is for embedding; a text model can be measured"
        )
    needed = load.prompt_tokens + load.max_tokens
    longest = config.engine.get("max_model_len") or tags.get("context_length")
    if isinstance(longest, int) and needed > longest:
        raise typer.BadParameter(
            f"--prompt-tokens and --max-tokens are {needed} together; the model takes {longest}"
        )


def _measure(
    service: VLLMService, load: Load, levels: Sequence[int], show: Callable[[str], None]
) -> list[dict[str, Any]]:
    from sage.tools.cli.bench.load_generator import make_prompts, measure_level

    show("Making prompts ...")
    counts = [max(load.requests, level) for level in levels]
    prompts = iter(make_prompts(service, max(levels) + sum(counts), load.prompt_tokens))
    show("Warming up ...")
    measure_level(
        service,
        [next(prompts) for _ in range(max(levels))],
        in_flight=max(levels),
        max_tokens=min(load.max_tokens, _WARM_UP_TOKENS),
    )
    results = []
    for level, count in zip(levels, counts, strict=True):
        said = f"{level} in flight: {{}} of {count} requests"
        result = measure_level(
            service,
            [next(prompts) for _ in range(count)],
            in_flight=level,
            max_tokens=load.max_tokens,
            on_progress=partial(_show_count, show, said),
        )
        results.append(result.to_json())
    return results


def _show_count(show: Callable[[str], None], text: str, count: int) -> None:
    show(text.format(count))


def _machine(service: VLLMService, started: float) -> dict[str, Any]:
    from sage.tools.cli.machine.device import device_name

    stats = service.stats()
    return {
        "model_id": stats["model_id"],
        "device": device_name(),
        "engine": stats["engine"],
        "start_seconds": started,
    }


def _write(report: dict[str, Any], load: Load) -> None:
    engine, levels = report["engine"], report["levels"]
    mean_prompt = levels[0]["prompt_tokens"] / levels[0]["requests"]
    write_data(f"Model:    {report['model_id']}, {engine['dtype']}")
    write_data(f"Device:   {report['device']}")
    write_data(f"Started:  in {report['start_seconds']:.1f} s, vLLM's import included")
    write_data(
        f"Requests: at least {load.requests} at each level, {mean_prompt:.0f} tokens in, "
        f"{load.max_tokens} tokens out"
    )
    write_data("")
    write_table(_COLUMNS, [_row(level) for level in levels])


def _row(level: dict[str, Any]) -> tuple[str, ...]:
    latency, first = level["latency_seconds"], level["first_token_seconds"]
    return (
        str(level["in_flight"]),
        f"{level['requests_per_second']:.1f}",
        f"{level['output_tokens_per_second']:,.0f}",
        f"{level['total_tokens_per_second']:,.0f}",
        "/".join(f"{latency[name]:.2f}" for name in ("p50", "p95", "p99")) + " s",
        "/".join(f"{1000 * first[name]:.0f}" for name in ("p50", "p95")) + " ms",
        f"{level['mean_batch_size']:.1f} ({level['batch_occupancy']:.0%})",
    )
