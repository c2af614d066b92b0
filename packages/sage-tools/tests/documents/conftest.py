"""What the tests of the documents share."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
REGISTRY_TESTS = HERE.parents[2] / "sage-common" / "tests" / "model_registry"
for folder in (HERE, REGISTRY_TESTS):  # importlib mode leaves them out
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
