"""Sources and sinks on files, for batch jobs that can be stopped and continued."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.libs.io.errors import InputFileError, MissingInputError, OutputFileError
    from sage.libs.io.jsonl_sink import JSONLSink
    from sage.libs.io.jsonl_source import JSONLSource
    from sage.libs.io.parquet_sink import ParquetSink
    from sage.libs.io.parquet_source import ParquetSource

__all__ = [
    "InputFileError",
    "JSONLSink",
    "JSONLSource",
    "MissingInputError",
    "OutputFileError",
    "ParquetSink",
    "ParquetSource",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "InputFileError": "sage.libs.io.errors",
        "JSONLSink": "sage.libs.io.jsonl_sink",
        "JSONLSource": "sage.libs.io.jsonl_source",
        "MissingInputError": "sage.libs.io.errors",
        "OutputFileError": "sage.libs.io.errors",
        "ParquetSink": "sage.libs.io.parquet_sink",
        "ParquetSource": "sage.libs.io.parquet_source",
    },
)
