from __future__ import annotations

import io
import sys
from dataclasses import dataclass

import pytest

from agents.core.errors import CheckpointError, EnvironmentFailure
from experiments import cli


@dataclass
class Options:
    """Some settings."""

    steps: int = 1
    debug: bool = False

    def __post_init__(self) -> None:
        if self.steps == 13:
            raise ValueError("steps must not be 13")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--step", "2"], "Unrecognized options: --step, 2. Did you mean --steps?"),
        (["--steps", "two"], "Error parsing --steps: invalid literal for int() with base 10: 'two'"),
        (["--steps"], "Missing value for argument '--steps'. Expected 1 values."),
        (["--steps", "13"], "steps must not be 13"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_tyro_refuses_is_a_sentence(
    argv: list[str], sentence: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tyro frames its refusals with lines where the terminal has them, else with hyphens and blanks.
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        cli.parse(Options, argv, prog="prog", description="")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "problem",
    [
        ValueError("two\nlines"),
        CheckpointError("two lines"),
        EnvironmentFailure("two lines"),
        OSError("two lines"),
        ModuleNotFoundError("two lines"),  # our own, which says what to install
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(
    problem: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(argv: list[str]) -> int:
        raise problem

    monkeypatch.setattr(sys, "argv", ["prog"])
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: two lines\n"
    monkeypatch.setattr(sys, "argv", ["prog", "--debug"])
    with pytest.raises(type(problem)):
        cli.main(command)


@pytest.mark.parametrize("defect", [KeyError("a defect"), ModuleNotFoundError("No module named 'x'", name="x")])
def test_defects_keep_their_traceback(defect: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(argv: list[str]) -> int:
        raise defect

    monkeypatch.setattr(sys, "argv", ["prog"])
    with pytest.raises(type(defect)):
        cli.main(command)


def test_the_status_of_the_command_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "x"])
    with pytest.raises(SystemExit) as stop:
        cli.main(lambda argv: 100 + len(argv))
    assert stop.value.code == 101


def test_a_full_disk_is_told_in_a_sentence() -> None:
    assert cli.one_line(OSError(28, "No space left on device", "x.csv")) == "No space left on device: x.csv"
