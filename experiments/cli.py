"""What every command shares: one-sentence errors, and tyro's refusals brought into the same form.

A mistake of the user's (`ValueError`, `OSError`, a failing environment) ends the command with
`error: <sentence>` on stderr and exit code 2; `--debug` shows the traceback instead. Anything else is a
defect and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import tyro

T = TypeVar("T")

_BOX = re.compile(r"^[│╭╰][─ ]?|[│╮╯]$")


def main(command: Callable[[list[str]], int]) -> NoReturn:
    """Run `command(argv)` and exit with the status it returns, or with 2 and a sentence."""
    argv = sys.argv[1:]
    debug = "--debug" in argv
    try:
        status = command(argv)
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141  # as of a process that SIGPIPE has ended
    except Exception as problem:
        if debug or not is_user_error(problem):
            raise
        print(f"error: {one_line(problem)}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def is_user_error(problem: Exception) -> bool:
    """Whether `problem` is something that the user can put right."""
    if isinstance(problem, ValueError | OSError | MemoryError):
        return True
    if isinstance(problem, ModuleNotFoundError):  # one that an import raised has a name; ours says what to install
        return problem.name is None
    # Imported by name: neither module need be loaded for a command that never touches it.
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(problem).__mro__}
    ours = {f"agents.core.errors.{name}" for name in ("EnvironmentFailure", "Diverged")}
    return bool(names & {*ours, "gymnasium.error.Error"})


def one_line(problem: Exception) -> str:
    """The message of an exception without line breaks."""
    if isinstance(problem, OSError) and problem.strerror:
        where = f": {problem.filename}" if problem.filename else ""
        return f"{problem.strerror}{where}"
    return " ".join(str(problem).split()) or type(problem).__name__


def parse(kind: type[T], argv: Sequence[str], *, prog: str, description: str, default: Any = None) -> T:
    """tyro's command line for the dataclass `kind`; raises ValueError where tyro would print a box.

    `--help` still prints and exits.
    """
    given = {} if default is None else {"default": default}
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            return tyro.cli(kind, prog=prog, description=description, args=argv, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_sentence(refusal.getvalue())) from None


def _sentence(box: str) -> str:
    """The first paragraph of tyro's error box and the option that it suggests, on one line."""
    lines = [_BOX.sub("", line).strip() for line in box.splitlines()[1:]]
    paragraphs = [[]]  # type: list[list[str]]
    for line in lines:
        if line and not line.strip("─-"):
            paragraphs.append([])
        elif line:
            paragraphs[-1].append(line)
    paragraphs = [paragraph for paragraph in paragraphs if paragraph] or [["the command line cannot be read"]]
    # What a dataclass itself refuses is a sentence of its own; tyro puts the field's name before it.
    sentence = re.sub(r"^Error parsing [A-Za-z]\w*: ", "", " ".join(paragraphs[0]))
    for paragraph in paragraphs[1:]:
        options = [line.split()[0] for line in paragraph if line.startswith("--")]
        if paragraph[0].startswith("Perhaps you meant") and options:
            sentence += f". Did you mean {options[0]}?"
    return sentence
