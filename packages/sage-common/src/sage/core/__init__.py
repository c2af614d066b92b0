"""Where earlier SAGE had environments and functions: importing it says where they are now."""

from __future__ import annotations

from sage.common.core.old_names import OLD_NAMES

raise ModuleNotFoundError(
    f"sage.core is of an earlier SAGE; now: {OLD_NAMES['sage.core']}", name="sage.core"
)
