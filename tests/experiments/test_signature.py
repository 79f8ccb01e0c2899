from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from experiments import cli
from experiments.signature import load_yaml_value, options_of


class Base:
    """
    A base.

    :param rate: how fast,
        in steps
    """


class Thing(Base):
    """
    A thing.

    :param names: what to call it
    """

    def __init__(
        self,
        env: str,
        rate: float | None = 3,  # type: ignore[assignment]
        count: int = 2,
        flag: bool = False,
        names: Any = None,
        freq: int | tuple[int, str] = 1,
        hidden: str = "x",
        **kwargs: Any,
    ) -> None:
        self.values = (rate, count, flag, names, freq)


def test_fields_follow_the_signature() -> None:
    kind = options_of("Options", Thing, skip=("hidden",))
    assert [field.name for field in dataclasses.fields(kind)] == ["rate", "count", "flag", "names", "freq"]
    values = dataclasses.asdict(kind())
    assert values == {"rate": 3.0, "count": 2, "flag": False, "names": None, "freq": 1}
    assert isinstance(values["rate"], float)


def test_values_from_the_command_line_have_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    kind = options_of("Options", Thing)
    argv = ["--rate", "5", "--count", "4", "--flag", "--names", "{a: [1, 1e-3]}", "--freq", "[1, episode]"]
    options = cli.parse(kind, argv, prog="prog", description="")
    assert dataclasses.asdict(options) == {
        "rate": 5.0,
        "count": 4,
        "flag": True,
        "names": {"a": [1, 1e-3]},
        "freq": [1, "episode"],
        "hidden": "x",
    }
    with pytest.raises(SystemExit):
        cli.parse(kind, ["--help"], prog="prog", description="")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "how fast, in steps (default: 3.0)" in text
    assert "what to call it" in text


def test_options_do_not_share_a_mutable_default() -> None:
    def function(kwargs: dict[str, int] = {}) -> None:  # noqa: B006
        pass

    kind = options_of("Options", function)
    kind().kwargs["a"] = 1  # type: ignore[attr-defined]
    assert kind().kwargs == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-2.5E+4", -2.5e4),
        ("1_000", 1000),
        ("7", 7),
        (".5", 0.5),
        ("1e", "1e"),
        ("v1.2", "v1.2"),
        ("no", False),
        ("null", None),
        ("3-4", "3-4"),
    ],
)
def test_yaml_numbers(text: str, value: Any) -> None:
    loaded = load_yaml_value(text)
    assert loaded == value
    assert type(loaded) is type(value)
