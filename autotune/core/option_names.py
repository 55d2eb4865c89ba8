"""How the options that an error names are spelled for whoever called.

An error of any level names an option by its path in a request, as `option_name("machine.threads")`
(`autotune.core.errors`). The command line, the Python API and the service know how their caller
writes it: `--threads`, `threads` or `spec.machine.threads`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from autotune.core.errors import AutotuneError, UsageError, option_name
from autotune.core.options import Entry, OptionError, Style, entries

_Error = TypeVar("_Error", bound=AutotuneError)


def option_names(style: Style, *schemas: type) -> Callable[[str], str]:
    """The spelling of an option's path in a style; of several schemas, the first that has it.

    An option of a schema that is the `same` as one of a request answers to that one's path as well.
    On the command line, a path that no schema has is spelled as a flag.
    """
    known: dict[str, Entry] = {}
    for schema in reversed(schemas):
        known |= {each.option.origin: each for each in entries(schema) if each.option.origin}
        known |= {each.path: each for each in entries(schema)}

    def spelled(path: str) -> str:
        if path in known:
            return known[path].spelled(style)
        flag = path.rpartition(".")[2].replace("_", "-")
        return f"--{flag}" if style == "cli" else path

    return spelled


def spell(error: _Error, style: Style, *schemas: type) -> _Error:
    """The same error, its options spelled in a style; see `option_names`.

    The schema of an OptionError counts as well: first where it is that of a whole command, last
    where it is a part, such as that of the machine, which commands may have in another place.
    """
    if isinstance(error, OptionError):
        own, is_part = error.schema, hasattr(error.schema, "PATH")
        schemas = (*schemas, own) if is_part else (own, *schemas)
    return error.name_options(option_names(style, *schemas))


@contextmanager
def about(path: str) -> Iterator[None]:
    """Put the option at `path` in front of a UsageError that names no option.

    For what a lower level refuses without knowing which option the value is of.
    """
    try:
        yield
    except UsageError as error:
        if error.template == str(error):
            error.args = (f"{option_name(path)}: {error.template}", *error.args[1:])
        raise
