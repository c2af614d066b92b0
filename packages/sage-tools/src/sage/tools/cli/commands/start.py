"""`sage llm start`: vLLM's own OpenAI-compatible server, on a model of the registry."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.tools.cli.commands.options.engine_options import (
    AutoDownload,
    Dtype,
    GpuMemoryUtilization,
    MaxModelLen,
    TensorParallelSize,
    engine_arguments,
)
from sage.tools.cli.commands.options.model_options import (
    Json,
    LocalModel,
    LocalModelOption,
    Quiet,
    Revision,
    optional_model,
)
from sage.tools.cli.errors import CommandError, Interrupted
from sage.tools.cli.light_command import LightCommand
from sage.tools.cli.terminal.output import write_data, write_json, write_note

if TYPE_CHECKING:
    from sage.tools.cli.servers.launch import Launched
    from sage.tools.cli.terminal.interrupts import Interrupts

_EXTRA = "sage.vllm_arguments"
_OURS = ("--model", "--served-model-name", "--host", "--port", "--uds")
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOP_SECONDS = 10.0
_NOTE = (
    "Note: `sage llm run` tries a model out sooner, without a server. In a pipeline, "
    "`register_vllm_service` needs none either, and batches the calls of all operators: see the "
    "page middleware/tools/vllm_service of the documentation."
)


class StartCommand(LightCommand):
    """Keeps what comes after `--` for vLLM; the model may be left out before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what comes before `--`."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[_EXTRA] = args[end + 1 :]
        return super().parse_args(ctx, args[:end])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What the help's first line says."""
        return [*super().collect_usage_pieces(ctx), "[-- VLLM_ARGUMENTS...]"]


def start(
    context: typer.Context,
    model: LocalModel = None,
    model_option: LocalModelOption = None,
    revision: Revision = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    background: Annotated[
        bool, typer.Option("--background", "-d", help="Return when the server is up.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that the server may take to start.")
    ] = 600,
    gpu_memory_utilization: GpuMemoryUtilization = None,
    max_model_len: MaxModelLen = None,
    dtype: Dtype = None,
    tensor_parallel_size: TensorParallelSize = None,
    auto_download: AutoDownload = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Start vLLM's OpenAI-compatible server. Ctrl-C, or `sage llm stop`, ends it.

    Without a model it takes the one used last, or the demo model. What comes after `--` goes to
    vLLM.
    """
    from sage.common.model_registry.vllm_registry import (
        RegistryNotWritableError,
        get_model,
        touch_model,
    )
    from sage.tools.cli.models.model_choice import chosen_model
    from sage.tools.cli.servers.launch import check_port, check_vllm, launch, server_command
    from sage.tools.cli.terminal.interrupts import Interrupts

    model_id = optional_model(model, model_option)
    arguments = engine_arguments(
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len,
        dtype=dtype,
        tensor_parallel_size=tensor_parallel_size,
    )
    extra: list[str] = context.meta[_EXTRA]
    _check_extra(extra)
    check_vllm()
    check_port(host, port)
    model_id = chosen_model(model_id, revision, auto_download=auto_download, quiet=quiet)
    found = get_model(model_id, revision)
    command = server_command(found, host=host, port=port, arguments=arguments, extra=extra)
    with suppress(RegistryNotWritableError):  # a shared one may be read-only
        touch_model(model_id, found.commit)
    with Interrupts(*_ENDING, holds=True) as interrupts:
        server = launch(found, host=host, port=port, command=command, background=background)
        try:
            interrupts.allow()
            code = _serve(
                server, timeout=timeout, background=background, as_json=as_json, quiet=quiet
            )
        except KeyboardInterrupt:
            _end(server, interrupts)
            raise Interrupted("The server was ended, `sage llm start` starts it again.") from None
        except BaseException:
            _end(server, interrupts)
            raise
    if not background:
        server.record.remove()
        if code == -signal.SIGKILL:
            raise CommandError(
                "The server was killed.",
                "`sage llm stop --force` does that, and the system where it runs out of memory.",
            )
        if code not in (0, -signal.SIGTERM):  # which are how `sage llm stop` ends it
            raise CommandError(
                f"The server ended by itself ({code}).", "What it said above tells more."
            )
        write_note("The server was stopped.", quiet=quiet)


def _check_extra(extra: list[str]) -> None:
    """Raise BadParameter for what cannot be given to vLLM directly."""
    for argument in extra:
        name = argument.partition("=")[0].replace("_", "-")
        if name in _OURS:
            raise typer.BadParameter(f"{argument} cannot be given after `--`: it is set from ours")
        if name.startswith("--ssl-"):
            raise typer.BadParameter(
                f"{argument} cannot be given after `--`: `start`, `status` and `stop` ask the "
                "server without TLS; put a proxy that speaks it in front"
            )


def _serve(
    server: Launched, *, timeout: float, background: bool, as_json: bool, quiet: bool
) -> int:
    """Wait for the server; in the foreground, to its end, of which it returns the code."""
    from sage.tools.cli.servers.wait import wait_until_ready

    wait_until_ready(server, timeout=timeout, quiet=quiet)
    with suppress(OSError):  # a full disk: `status` asks the server itself
        server.record.update(state="ready")
    facts = {**server.record.facts, "state": "ready"}
    with suppress(BrokenPipeError):  # whoever read the address has gone: it serves all the same
        _report(facts, as_json=as_json, quiet=quiet)
    return 0 if background else server.popen.wait()


def _report(facts: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        write_json(facts)
    else:
        write_data(facts["url"])
    where = f"port {facts['port']}, pid {facts['pid']}"
    ways = "Ctrl-C ends it."
    if facts["log"] is not None:
        ways = f"See `sage llm logs {facts['port']}` and `sage llm stop {facts['port']}`."
    write_note(f"{facts['model_id']} is served ({where}). {ways}", quiet=quiet or as_json)
    write_note(_NOTE, quiet=quiet or as_json)
    sys.stdout.flush()  # whoever waits for the address in a pipe gets it now


def _end(server: Launched, interrupts: Interrupts) -> None:
    """End the server and all it started; another Ctrl-C does not wait for it."""
    try:
        interrupts.allow()
        server.process.end(_STOP_SECONDS)
    except KeyboardInterrupt:
        server.process.end(0)
    finally:
        server.popen.wait()
        server.record.remove()
