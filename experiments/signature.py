"""A dataclass of the options of a constructor, so that the command line can explain and set them.

Used for what others wrote: Stable-Baselines3's algorithms and Gymnasium's environments.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Collection
from typing import Annotated, Any

import tyro
import yaml


def _from_yaml(args: list[str]) -> Any:
    try:
        return load_yaml_value(args[0])
    except yaml.YAMLError:
        raise ValueError(f"{args[0]!r} is not valid YAML") from None


def _to_yaml(value: Any) -> list[str]:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return [text.removesuffix("...").strip()]


Yaml = Annotated[
    Any,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="YAML",
        instance_from_str=_from_yaml,
        is_instance=lambda _: True,
        str_from_instance=_to_yaml,
    ),
]
"""Any value, written as YAML: `5`, `auto`, `[1, episode]`, `{net_arch: [64, 64]}`."""


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-3` is a number, as everywhere but in YAML 1.1."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def load_yaml_value(text: str) -> Any:
    """YAML as `yaml.safe_load`, but with `1e-3` a float."""
    return yaml.load(text, Loader=_Loader)


def options_of(name: str, function: Callable[..., Any], skip: Collection[str] = ()) -> type:
    """A dataclass `name` with a field for each keyword argument of `function` that has a default.

    A field has the type of its default where that is a bool, number or string (and the annotation allows
    no sequence), else it takes any YAML value; `:param x:` lines of the docstrings explain it.
    """
    helps = _explained(function)
    made = dataclasses.fields(function) if dataclasses.is_dataclass(function) else ()
    factories = {f.name: f.default_factory for f in made if f.default_factory is not dataclasses.MISSING}
    fields: list[tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in skip or parameter.kind not in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            continue
        default = factories[parameter.name]() if parameter.name in factories else parameter.default
        if default is parameter.empty or parameter.name == "self":
            continue
        loose = re.search(r"tuple|list|dict|Sequence|str \||\| str|Union\[.*str", str(parameter.annotation))
        kind: Any = type(default) if type(default) in (bool, int, float, str) and not loose else Yaml
        if kind is int and "float" in str(parameter.annotation):
            kind = float
        if kind is float:
            default = float(default)
        help_text = helps.get(parameter.name, "")
        fields.append(
            (
                parameter.name,
                Annotated[kind, tyro.conf.arg(help=help_text)],
                dataclasses.field(default_factory=functools.partial(copy.deepcopy, default)),
            )
        )
    return dataclasses.make_dataclass(name, fields, kw_only=True)


def _explained(function: Callable[..., Any]) -> dict[str, str]:
    """The `:param x:` texts in the docstrings of `function`, or of the class and its bases."""
    texts = (
        [inspect.getdoc(kind) or "" for kind in reversed(inspect.getmro(function))]
        if isinstance(function, type)
        else [inspect.getdoc(function) or ""]
    )
    found: dict[str, str] = {}
    for text in texts:
        for name, help_text in re.findall(r":param (\w+):((?:.|\n)*?)(?=\n:|\n\n|\Z)", text):
            found[name] = " ".join(help_text.split())
    return found
