"""What a line that begins with a slash does in a chat."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.requests.sampling_options import check_sampling_options
from sage.common.core.errors import nearest
from sage.common.core.local_path import local_path
from sage.tools.cli.errors import CommandError
from sage.tools.cli.run.chat.conversation import read_conversation, write_conversation
from sage.tools.cli.run.chat.state import ChatState
from sage.tools.cli.run.loading import working_display
from sage.tools.cli.terminal.output import write_data, write_note


def run_command(chat: ChatState, line: str) -> None:
    """Do what a line says; raises CommandError for a command that does not exist."""
    name, _, argument = line[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise CommandError(
            f"there is no command /{name}",
            f"{_ended(nearest(f'/{name}', [f'/{known}' for known in COMMANDS]).capitalize())} "
            f"A message that begins with a slash is typed with a blank before it.",
        )
    command.run(chat, argument.strip())


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def _help(_chat: ChatState, _: str) -> None:
    for name, command in COMMANDS.items():
        write_data(f"{f'/{name} {command.takes}':<22}{command.help}")
    write_data("Alt-Enter, or a backslash before Enter, begins another line.")
    write_data("Ctrl-C stops an answer; Ctrl-D leaves.")


def _model(chat: ChatState, model_id: str) -> None:
    if not model_id:
        for model in chat.service.show_models():
            if model["tags"].get("type", "text") == "text":
                mark = "*" if model["model_id"] == chat.model_id else " "
                write_data(f"{mark} {model['model_id']}")
        return
    with working_display(f"Loading {model_id}", quiet=chat.quiet):
        chat.service.switch_model(model_id)
    write_note(f"{model_id} answers from now on.", quiet=chat.quiet)
    chat.meet_model()


def _set(chat: ChatState, argument: str) -> None:
    name, _, text = argument.partition(" ")
    if not text:
        if not chat.options:
            write_note("No option is set: the model's own defaults hold.", quiet=chat.quiet)
        for option, value in sorted(chat.options.items()):
            if name in ("", option):
                write_data(f"{option} {json.dumps(value)}")
        return
    changed = {**chat.options, name: _value(text.strip())}
    try:
        check_sampling_options(changed, "/set")
    except InvalidOptionError as error:
        raise CommandError(error.problem, error.hint or "/set shows what is set.") from error
    chat.options = {option: value for option, value in changed.items() if value is not None}


def _value(text: str) -> Any:
    if text == "default":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _system(chat: ChatState, text: str) -> None:
    if not text:
        write_data(chat.conversation.system or "There is no system prompt.")
        return
    if not chat.converses:
        raise CommandError(
            f"{chat.model_id} has no chat template, so it takes no system prompt",
            "/model takes another model.",
        )
    chat.conversation.system = text


def _clear(chat: ChatState, _: str) -> None:
    chat.conversation.turns.clear()
    write_note("A new conversation begins.", quiet=chat.quiet)


def _stats(chat: ChatState, _: str) -> None:
    stats = chat.service.stats()
    engine = stats["engine"]
    for name, value in (
        ("Model", f"{chat.model_id}, {engine['dtype']}, loaded in {engine['start_seconds']:.1f} s"),
        ("Conversation", f"{len(chat.conversation.turns)} messages"),
        ("Context", f"{chat.tokens:,} of {engine['max_model_len']:,} tokens used"),
        ("Answers", f"{chat.answers}"),
        ("Tokens", f"{stats['prompt_tokens']:,} read, {stats['completion_tokens']:,} generated"),
        ("Speed", f"{stats['tokens_per_second']:.0f} tokens/s"),
    ):
        write_data(f"{name + ':':<14}{value}")


def _save(chat: ChatState, file: str) -> None:
    path = _path(file, "/save")
    messages = chat.conversation.messages
    if not messages:
        raise CommandError("there is nothing to save yet", "Say something first.")
    try:
        write_conversation(path, chat.model_id, messages)
    except OSError as error:
        problem = f"cannot write {path}: {error.strerror or error}"
        raise CommandError(problem, "Name a file in a folder that you can write.") from error
    write_note(f"Saved {len(messages)} messages to {path}.", quiet=chat.quiet)


def _load(chat: ChatState, file: str) -> None:
    path = _path(file, "/load")
    try:
        messages = read_conversation(path)
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror or error}"
        raise CommandError(problem, "Name a file that /save wrote.") from error
    chat.conversation.replace(messages)
    write_note(f"Loaded {len(messages)} messages; go on from there.", quiet=chat.quiet)


def _path(file: str, command: str) -> Path:
    if not file:
        raise CommandError(f"{command} needs a file", f"For instance: {command} chat.json")
    return local_path(file)


def _exit(chat: ChatState, _: str) -> None:
    chat.over = True


@dataclass(frozen=True, kw_only=True)
class _Command:
    run: Callable[[ChatState, str], None]
    takes: str = ""
    help: str


COMMANDS = {
    "help": _Command(run=_help, help="show this"),
    "model": _Command(run=_model, takes="[ID]", help="show the local models, or take another"),
    "set": _Command(
        run=_set, takes="[OPTION VALUE]", help="show or set options; 'default' takes one back"
    ),
    "system": _Command(run=_system, takes="[TEXT]", help="show or set the system prompt"),
    "clear": _Command(run=_clear, help="begin a new conversation"),
    "stats": _Command(run=_stats, help="show figures of the chat and the engine"),
    "save": _Command(run=_save, takes="FILE", help="save the conversation"),
    "load": _Command(run=_load, takes="FILE", help="load a conversation and go on with it"),
    "exit": _Command(run=_exit, help="leave"),
}
