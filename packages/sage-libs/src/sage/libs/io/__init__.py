"""Sources and sinks on files, for batch jobs that can be stopped and continued."""

from __future__ import annotations

from sage.libs.io.errors import InputFileError, OutputFileError
from sage.libs.io.jsonl_sink import JSONLSink
from sage.libs.io.jsonl_source import JSONLSource
from sage.libs.io.parquet_sink import ParquetSink
from sage.libs.io.parquet_source import ParquetSource

__all__ = [
    "InputFileError",
    "JSONLSink",
    "JSONLSource",
    "OutputFileError",
    "ParquetSink",
    "ParquetSource",
]
