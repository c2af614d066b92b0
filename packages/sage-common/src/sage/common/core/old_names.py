"""Names of earlier SAGE (isage 0.1 and 0.2), each with what to write in its place.

This one table answers modules, names and methods that are no more, and is checked against the page
"Coming from isage". The finder stands last on ``sys.meta_path``: Python asks it about a module
that nobody has, and it answers those of the table alone. It is installed by whatever door of SAGE
is imported first; ``sage.core``, which is no part of one, is a package that only raises.
"""

from __future__ import annotations

import sys

OLD_NAMES: dict[str, str] = {
    # modules; those below them too
    "sage.core": "environments and BaseService: sage.kernel.api; functions: "
    "sage.common.core.functions; operators: sage.libs.operators, sage.libs.rag",
    # only those below it: the package itself is there
    "sage.common.core.functions.": "MapFunction and the others: sage.common.core.functions itself",
    "sage.common.utils": 'Python\'s own logging: logging.getLogger("sage")',
    "sage.kernel.api.function": "MapFunction and the others: sage.common.core.functions",
    "sage.kernel.api.remote_environment": "LocalEnvironment in sage.kernel.api: a pipeline runs in "
    "this process",
    "sage.kernel.api.service": "BaseService in sage.kernel.api",
    "sage.kernel.jobmanager": "LocalEnvironment.submit(): there is no job manager",
    "sage.libs.io.sink": "JSONLSink or ParquetSink in sage.libs.io, or stream.print()",
    "sage.libs.io.source": "JSONLSource or ParquetSource in sage.libs.io, or "
    "env.from_source(generator_function, path)",
    "sage.libs.io_utils": "JSONLSource and JSONLSink in sage.libs.io",
    "sage.libs.rag.promptor": "prompt_template= of OpenAIGenerator or VLLMServiceGenerator",
    "sage.libs.rag.retriever": "VDBMemoryCollection in sage.middleware.components.memory",
    "sage.middleware.operators": "operators: sage.libs.operators and sage.libs.rag",
    # names of a door
    "BaseCoMapFunction": "stream.union(other), then map()",
    "CustomLogger": 'logging.getLogger("sage")',
    "FileSink": "JSONLSink in sage.libs.io",
    "FileSource": "JSONLSource in sage.libs.io, or env.from_source(generator_function, path)",
    "HFGenerator": "VLLMServiceGenerator in sage.libs.operators",
    "JobManager": "LocalEnvironment.submit(): there is no job manager",
    "QAPromptor": "prompt_template= of OpenAIGenerator or VLLMServiceGenerator",
    "RemoteEnvironment": "LocalEnvironment: a pipeline runs in this process",
    "TerminalSink": "stream.print()",
    # methods
    "DataStream.comap": "union(other), then map()",
    "DataStream.connect": "union(other)",
    "LocalEnvironment.from_kafka_source": "from_source() with a SourceFunction of your own",
    "LocalEnvironment.set_console_log_level": 'logging.basicConfig(level="INFO")',
}


def moved_module(name: str) -> ModuleNotFoundError | None:
    """Return the error for a module of the table, or below one; None if it is neither."""
    for old, way in OLD_NAMES.items():
        if name == old or name.startswith(f"{old.rstrip('.')}."):
            return ModuleNotFoundError(f"{name} is of an earlier SAGE; now: {way}", name=name)
    return None


def moved_name(door: str, name: str) -> ImportError | None:
    """Return the error for a name that a door had; None if it is not in the table.

    An AttributeError would lose what it says: ``from door import name`` makes its own of it.
    """
    way = OLD_NAMES.get(name)
    if way is None:
        return None
    return ImportError(f"{door}.{name} is of an earlier SAGE; now: {way}", name=door)


def missing_attribute(instance: object, name: str) -> AttributeError:
    """Return the error for an attribute that an object lacks, with the new way if it is old."""
    cls = type(instance).__name__
    way = OLD_NAMES.get(f"{cls}.{name}")
    problem = f"{cls!r} object has no attribute {name!r}"
    text = f"{problem}, which is of an earlier SAGE; now: {way}" if way else problem
    return AttributeError(text, name=name, obj=instance)


class _OldModules:
    """A finder that finds nothing, and says so of modules in the table."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        error = moved_module(name)
        if error is not None:
            raise error


sys.meta_path.append(_OldModules)  # find_spec is all that is asked for
