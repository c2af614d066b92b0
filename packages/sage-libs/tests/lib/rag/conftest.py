from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parent))  # importlib mode imports no neighbours by itself

from chat_server import running_server

if TYPE_CHECKING:
    from chat_server import ChatServer


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A chat endpoint on this machine."""
    with running_server() as running:
        yield running
