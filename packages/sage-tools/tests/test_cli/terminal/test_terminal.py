"""`sage llm model` in a terminal: the display, the question, Ctrl-C, narrow screens, colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hub_faults import Fault, Hold

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine
    from local_hub import LocalHub

MODEL = "owner/name"
LAST = "tokenizer.json"
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture
def held(hub: LocalHub, files: dict[str, bytes]) -> Hold:
    """A download that stops in the middle of a shard until it is released."""
    hub.add_model(MODEL, files)
    hold = Hold(100_000)
    hub.faults = [Fault("get", hold, path=SHARD, times=1)]
    return hold


@pytest.mark.parametrize("columns", [100, 40])
def test_a_download_is_drawn_in_place_and_fits(
    columns: int, held: Hold, sage: CommandLine, root: Path
) -> None:
    terminal = sage.terminal("llm", "model", "download", MODEL, columns=columns)
    assert held.held.wait(60)
    terminal.read_until("4 of 5 files" if columns == 100 else "of 200.1 kB")
    held.release.set()
    assert terminal.finish() == 0
    assert "asking the hub" in terminal.frames[1]
    drawn = [frame for frame in terminal.frames if " of 600.4 kB" in frame]
    assert any("%" in frame for frame in drawn)
    assert any("0 B of 200.1 kB" in frame for frame in drawn)
    for frame in drawn[:-1]:
        assert all(len(line) < columns for line in frame.splitlines())
    # At the end the display is gone; what is left is the result.
    assert terminal.frames[-1].splitlines() == [
        "owner/name (main, 600.4 kB) is complete and verified.",
        str(vllm_registry.get_model_path(MODEL, root=root)),
    ]


def test_ctrl_c_leaves_a_clean_screen(held: Hold, sage: CommandLine, root: Path) -> None:
    terminal = sage.terminal("llm", "model", "download", MODEL)
    assert held.held.wait(60)
    terminal.read_until("of 200.1 kB")
    terminal.type("\x03")
    assert terminal.finish() == 130
    assert terminal.frames[-1].splitlines() == [
        "Error: Interrupted.",
        "Hint: Run the same command again to go on: complete files are kept.",
    ]
    assert vllm_registry.list_models(root=root) == []


def test_no_color_means_no_colour_and_no_animation(
    hub: LocalHub, sage: CommandLine, files: dict[str, bytes]
) -> None:
    hub.add_model(MODEL, files)
    for arguments in (["download", MODEL], ["show"], ["show", "owner/other"]):
        terminal = sage.terminal("llm", "model", *arguments, NO_COLOR="1")
        terminal.finish()
        assert "\x1b" not in terminal.raw


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_delete_shows_what_goes_and_asks(
    answer: str, code: int, sage: CommandLine, source: Path, root: Path
) -> None:
    model = vllm_registry.import_model(MODEL, source, root=root)
    terminal = sage.terminal("llm", "model", "delete", MODEL)
    shown = terminal.read_until("[y/N] ")
    assert "owner/name local (600.4 kB)" in shown
    assert model.path.is_dir()
    terminal.type(answer)
    assert terminal.finish() == code
    assert model.path.is_dir() is (code == 1)
    assert ("Nothing was deleted." in terminal.text) is (code == 1)


def test_ctrl_c_at_the_question_deletes_nothing(
    sage: CommandLine, source: Path, root: Path
) -> None:
    model = vllm_registry.import_model(MODEL, source, root=root)
    terminal = sage.terminal("llm", "model", "delete", MODEL)
    terminal.read_until("[y/N] ")
    terminal.type("\x03")
    assert terminal.finish() == 130
    assert model.path.is_dir()


@pytest.mark.parametrize(
    ("columns", "header"),
    [
        (100, "MODEL REVISION SIZE LAST USED TAGS"),
        (60, "MODEL REVISION SIZE"),
        (40, "MODEL SIZE"),
    ],
)
def test_the_table_fits_its_terminal(
    columns: int, header: str, sage: CommandLine, source: Path, root: Path
) -> None:
    for name in ("owner/a", "a-quite-long-owner/with-a-long-name"):
        vllm_registry.import_model(name, source, link=True, root=root)
    terminal = sage.terminal("llm", "model", "show", columns=columns)
    assert terminal.finish() == 0
    first, *rows = terminal.text.splitlines()
    assert " ".join(first.split()) == header
    assert all(len(line) <= columns for line in (first, *rows))
    assert rows[0].split()[0].endswith("-long-name")
    assert "\x1b[1m" in terminal.raw


def test_one_model_fits_a_narrow_terminal(sage: CommandLine, source: Path, root: Path) -> None:
    model = vllm_registry.import_model(MODEL, source, root=root)
    terminal = sage.terminal("llm", "model", "show", MODEL, columns=40)
    assert terminal.finish() == 0
    above, files, _ = terminal.text.partition("Files:\n")
    assert files
    assert "Memory: fits: needs about 720.3 kB; " in " ".join(above.split())
    long = [line.strip() for line in above.splitlines() if len(line) > 40]
    assert all(" " not in line for line in long)  # what can be copied is not broken
    assert model.commit in above


def test_errors_are_red_in_a_terminal(sage: CommandLine) -> None:
    terminal = sage.terminal("llm", "model", "show", "owner/other")
    assert terminal.finish() == 1
    assert "\x1b[31mError:\x1b[0m Model 'owner/other'" in terminal.raw
