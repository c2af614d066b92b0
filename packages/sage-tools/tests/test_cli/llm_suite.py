"""One user's way through `sage llm`, each command once, in this order and on the real thing."""

from __future__ import annotations

import json
import os
import re
import socket
import urllib.request
from typing import TYPE_CHECKING

import pytest
from command_line import CommandLine, lines
from real_server import free_port

from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = "me/tiny-chat"
COMMANDS = "model run start stop status logs fine-tune improve bench doctor cache".split()
CACHE_COMMANDS = "show prune clear".split()
MODEL_COMMANDS = "show download delete verify repair update prune import migrate".split()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def user(home: Path) -> Iterator[CommandLine]:
    """The command line of someone with an empty home and no network."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "SAGE_VLLM_MODEL_ROOT": str(home / "models"),
        "SAGE_RUN_ROOT": str(home / "run"),
        "HF_HUB_OFFLINE": "1",
    }
    with CommandLine(environment) as user:
        yield user
        user("llm", "stop", "--all", "--force")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


def test_the_help_lists_the_commands_in_their_order(user: CommandLine) -> None:
    said = lines(user("llm", "--help"))
    listed = [line.split()[0] for line in said[said.index("Commands:") + 1 :] if line[2] != " "]
    assert listed == COMMANDS


@pytest.mark.parametrize(
    "command",
    [[name] for name in COMMANDS]
    + [["model", name] for name in MODEL_COMMANDS]
    + [["cache", name] for name in CACHE_COMMANDS],
)
def test_every_command_explains_itself(command: list[str], user: CommandLine) -> None:
    said = lines(user("llm", *command, "--help"))
    assert said[0].startswith(f"Usage: sage llm {' '.join(command)} ")
    assert said[2].strip()


def test_import_a_model(user: CommandLine, home: Path) -> None:
    folder = write_tiny_model(home / "from-elsewhere")
    (path,) = lines(user("llm", "model", "import", MODEL, str(folder)))
    assert path.startswith(str(home / "models"))


def test_show_it(user: CommandLine) -> None:
    (model,) = json.loads(user("llm", "model", "show", "--json").stdout)
    assert (model["model_id"], model["tags"]["type"]) == (MODEL, "text")


def test_verify_it(user: CommandLine) -> None:
    (said,) = lines(user("llm", "model", "verify"))
    assert re.fullmatch(rf"{MODEL} local: \d+ files, all right", said)


def test_doctor_finds_no_problem(user: CommandLine) -> None:
    done = user("llm", "doctor", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (0, True)
    details = {each["check"]: each["detail"] for each in report["checks"]}
    assert details["Registry"].startswith("1 model, ")
    assert details["vLLM"].endswith("can be imported")


def test_run_a_prompt_with_the_model_used_last(user: CommandLine) -> None:
    done = user("llm", "run", "--prompt", "Hello", "--max-tokens", "8", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["model_id"] == MODEL
    assert 1 <= answer["tokens_used"]["completion"] <= 8
    assert f"Using {MODEL}" in done.stderr


def test_run_it_with_a_cache(user: CommandLine, home: Path) -> None:
    (home / "in.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    cache = str(home / "answers")
    files = ["--input", str(home / "in.jsonl"), "--output", str(home / "out.jsonl")]
    options = ["--temperature", "0", "--max-tokens", "4", "--cache", cache, "--json"]
    done = user("llm", "run", *files, *options)
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(user("llm", "cache", "show", cache, "--json").stdout)["models"]
    assert (model["model"], model["answers"]) == (MODEL, 2)
    again = user("llm", "run", *files, "--overwrite", *options)
    assert again.returncode == 0, again.stderr
    written = [json.loads(line) for line in (home / "out.jsonl").read_text().splitlines()]
    assert [line["generation"]["cached"] for line in written] == [True, True]


def test_drop_what_a_cache_keeps(user: CommandLine, home: Path) -> None:
    cache = str(home / "answers")
    header, row = lines(user("llm", "cache", "show", cache))
    assert header.split() == ["MODEL", "ANSWERS", "SIZE", "OLDEST", "LAST", "USED"]
    assert row.split()[:2] == [MODEL, "2"]
    done = user("llm", "cache", "prune", cache, "--unused-days", "30", "--max-size", "1GB")
    assert "Dropped 0 answers; 2 are left" in done.stderr
    (said,) = lines(user("llm", "cache", "clear", cache, "--dry-run"))
    assert said == f"drops 2 answers of {cache}"
    dropped = json.loads(user("llm", "cache", "clear", cache, "--yes", "--json").stdout)
    assert dropped == {"dropped": 2, "answers": 0, "bytes": 0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "nowhere"], "nowhere is no cache: it has no results.sqlite"),
        (["prune", "nowhere"], "say what to drop"),
        (["prune", "nowhere", "--max-size", "much"], "'much' is no size, such as 1GB"),
        (["clear", "answers"], "nobody can be asked: add --yes"),
    ],
)
def test_a_cache_that_is_none_and_what_cannot_be_dropped(
    arguments: list[str], says: str, user: CommandLine, home: Path
) -> None:
    command, folder, *others = arguments
    done = user("llm", "cache", command, str(home / folder), *others)
    assert done.returncode in (1, 2)
    assert says in done.stderr


def test_bench_it(user: CommandLine) -> None:
    options = ["--requests", "4", "--prompt-tokens", "16", "--max-tokens", "4", "--in-flight", "2"]
    (*_, header, row) = lines(user("llm", "bench", MODEL, *options))
    assert header.split()[:3] == ["IN", "FLIGHT", "REQUESTS/S"]
    assert row.split()[0] == "2"


def test_fine_tuning_it_is_pending(user: CommandLine, home: Path, without_tuning: Path) -> None:
    (home / "data.jsonl").write_text('{"prompt": "2 + 2 =", "completion": " 4"}\n')
    paths = ["--dataset", str(home / "data.jsonl"), "--output", str(home / "tuned")]
    done = user("llm", "fine-tune", "--base-model", MODEL, *paths, "--strategy", "lora",
                PYTHONPATH=str(without_tuning))  # fmt: skip
    assert done.returncode == 1
    assert "The request is valid" in done.stderr
    assert "pipeline is pending" in done.stderr


def test_start_a_server_in_the_background(user: CommandLine, port: int) -> None:
    done = user("llm", "start", MODEL, "--port", str(port), "--background")
    assert done.returncode == 0, done.stderr
    (address,) = done.stdout.splitlines()
    assert f":{port}" in address
    assert "sage llm run" in done.stderr  # the way to the service


def test_ask_it(port: int) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert 1 <= json.load(answer)["usage"]["completion_tokens"] <= 4


def test_status_shows_it(user: CommandLine, port: int) -> None:
    (server,) = json.loads(user("llm", "status", "--json").stdout)
    assert (server["kind"], server["model_id"], server["port"]) == ("server", MODEL, port)
    assert re.search(rf"\b{port}\b", user("llm", "status").stdout)


def test_logs_shows_what_it_wrote(user: CommandLine) -> None:
    assert lines(user("llm", "logs"))


def test_stop_ends_it(user: CommandLine, port: int) -> None:
    (said,) = lines(user("llm", "stop"))
    assert str(port) in said
    assert json.loads(user("llm", "status", "--json").stdout) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_delete_the_model(user: CommandLine) -> None:
    assert lines(user("llm", "model", "delete", MODEL, "--yes"))
    assert json.loads(user("llm", "model", "show", "--json").stdout) == []
