"""`sage llm start`: vLLM's own OpenAI-compatible server, on a model of the registry."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.tools.cli.commands.options.engine_options import EngineOptions, LoadOptions
from sage.tools.cli.commands.options.model_options import Display, ModelOptions
from sage.tools.cli.errors import CommandError, Interrupted
from sage.tools.cli.light_command import LightCommand
from sage.tools.cli.terminal.output import write_data, write_json, write_note

if TYPE_CHECKING:
    from sage.common.model_registry.vllm_registry import ModelInfo
    from sage.tools.cli.servers.address import Address
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
        """Return what the help's first line says."""
        return [*super().collect_usage_pieces(ctx), "[-- VLLM_ARGUMENTS...]"]


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """Where the server listens, and how it is started."""

    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, typer.Option("--port", "-p", min=1, max=65535, help="Port to listen on.")
    ] = 8000
    background: Annotated[
        bool, typer.Option("--background", "-d", help="Return when the server is up.")
    ] = False
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that the server may take to start.")
    ] = 600


def start(
    context: typer.Context,
    *,
    model: ModelOptions,
    listen: ListenOptions,
    engine: EngineOptions,
    loading: LoadOptions,
    display: Display,
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
    from sage.tools.cli.servers.address import Address
    from sage.tools.cli.servers.command import (
        check_vllm,
        prompt_left_out,
        server_command,
    )

    wanted, arguments = model.optional_id(), engine.arguments()
    extra: list[str] = context.meta[_EXTRA]
    _check_extra(extra)
    check_vllm()
    address = Address(listen.host, listen.port)
    address.check_free()
    model_id = chosen_model(
        wanted,
        model.revision,
        auto_download=loading.auto_download,
        allow_pickle=loading.allow_pickle,
        quiet=display.quiet,
    )
    found = get_model(model_id, model.revision)
    command = server_command(
        found, address, arguments=arguments, allow_pickle=loading.allow_pickle, extra=extra
    )
    if prompt := prompt_left_out(found):
        write_note(
            f"Put {prompt!r} before each text yourself: it is the model's default prompt, and "
            "vLLM's server leaves it out.",
            quiet=display.quiet,
        )
    with suppress(RegistryNotWritableError):  # a shared one may be read-only
        touch_model(model_id, found.commit)
    code = _served(found, address, command, listen, display)
    if not listen.background:
        _tell_end(code, display)


def _served(
    model: ModelInfo,
    address: Address,
    command: list[str],
    listen: ListenOptions,
    display: Display,
) -> int:
    """Start the server; return when it is up or, in the foreground, the code with which it ended.

    Whatever stops this before that ends the server.
    """
    from sage.tools.cli.servers.launch import launch
    from sage.tools.cli.terminal.interrupts import Interrupts

    with Interrupts(*_ENDING, holds=True) as interrupts:
        server = launch(model, address, command=command, background=listen.background)
        try:
            interrupts.allow()
            code = _serve(server, listen, display)
        except KeyboardInterrupt:
            _end(server, interrupts)
            raise Interrupted("The server was ended, `sage llm start` starts it again.") from None
        except BaseException:
            _end(server, interrupts)
            raise
    if not listen.background:
        server.forget()
    return code


def _tell_end(code: int, display: Display) -> None:
    """Say that the server was stopped; raises CommandError where nobody had it stopped."""
    if code == -signal.SIGKILL:
        raise CommandError(
            "The server was killed.",
            "`sage llm stop --force` does that, and the system where it runs out of memory.",
        )
    if code not in (0, -signal.SIGTERM):  # which are how `sage llm stop` ends it
        raise CommandError(
            f"The server ended by itself ({code}).", "What it said above tells more."
        )
    write_note("The server was stopped.", quiet=display.quiet)


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


def _serve(server: Launched, listen: ListenOptions, display: Display) -> int:
    """Wait for the server; in the foreground, to its end, of which it returns the code."""
    from sage.tools.cli.servers.wait import wait_until_ready

    wait_until_ready(server, timeout=listen.timeout, quiet=display.quiet)
    with suppress(OSError):  # a full disk: `status` asks the server itself
        server.record.update(state="ready")
    facts = {**server.record.facts, "state": "ready"}
    with suppress(BrokenPipeError):  # whoever read the address has gone: it serves all the same
        _report(facts, display)
    return 0 if listen.background else server.popen.wait()


def _report(facts: dict[str, Any], display: Display) -> None:
    if display.as_json:
        write_json(facts)
    else:
        write_data(facts["url"])
    where = f"port {facts['port']}, pid {facts['pid']}"
    ways = "Ctrl-C ends it."
    if facts["log"] is not None:
        ways = f"See `sage llm logs {facts['port']}` and `sage llm stop {facts['port']}`."
    write_note(f"{facts['model_id']} is served ({where}). {ways}", quiet=display.is_bare)
    write_note(_NOTE, quiet=display.is_bare)
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
        server.forget()
