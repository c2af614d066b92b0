"""The environment variables that change what SAGE, vLLM and the hub's client do."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from sage.tools.cli.doctor.finding import Finding

_PREFIXES = ("SAGE_", "VLLM_", "HF_", "HUGGING_FACE_", "CUDA_", "TRANSFORMERS_")
_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "OMP_NUM_THREADS", "NO_COLOR")
_OURS = ("HF_HUB_VERBOSITY",)  # set by `sage` itself
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)
_CREDENTIALS = re.compile(r"//[^/\s@]*@")


def check_environment() -> Sequence[Finding]:
    """Return the variables that are set; what is secret in them is not shown."""
    found = [
        f"{name}={'***' if _SECRET.search(name) and value else without_secrets(value)}"
        for name, value in sorted(os.environ.items())
        if (name.startswith(_PREFIXES) or name.upper() in _NAMES) and name not in _OURS
    ]
    return [Finding(name="Environment", detail=each) for each in found]


def without_secrets(text: str) -> str:
    """Return the text without user names and passwords in its addresses, and without hub tokens."""
    return re.sub(r"\bhf_\w+", "***", _CREDENTIALS.sub("//***@", text))
