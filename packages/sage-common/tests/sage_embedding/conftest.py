from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parent))  # importlib mode imports no neighbours by itself

from embeddings_server import running_server

if TYPE_CHECKING:
    from embeddings_server import EmbeddingsServer


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    """An embeddings endpoint on this machine."""
    with running_server() as running:
        yield running
