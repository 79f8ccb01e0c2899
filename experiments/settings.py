"""What a run is made of, and where each setting comes from: default < tuned < command line.

Defaults stand in the algorithm's Config; tuned ones in configs/<algo>.yaml, per environment id or pattern, where
`<pattern> @ <model>` holds for one language model (`--agent.model`) alone, and `<pattern> @ <actions>` for one form of
the actions on a screen (`--env.actions`).
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from experiments import cli
from experiments.environments import env_options
from experiments.rundir import RunDir, file_name
from experiments.signature import load_yaml_value

ALGORITHMS = ("actor-critic", "ddpg", "kimi", "trpo")
SB3_ALGORITHMS = ("sb3/a2c", "sb3/ddpg", "sb3/ppo", "sb3/sac", "sb3/td3", "sb3/trpo")
CONFIGS = Path(__file__).parent / "configs"

PRECISIONS = ("highest", "high", "medium")

TUNABLE = (
    "total_timesteps", "num_envs", "eval_episodes", "eval_samples", "torch_threads", "matmul_precision",
    "env", "agent", "warmup",
)  # fmt: skip
# What may differ from the saved configuration when a run is resumed.
CHANGEABLE = ("total_timesteps", "out", "resume", "progress", "quiet", "debug")


@dataclass(kw_only=True)
class RunOptions:
    """The settings of a run that do not depend on the algorithm."""

    algo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ALGO")]
    """The algorithm: actor-critic, ddpg, kimi, trpo, or Stable-Baselines3's as sb3/a2c, sb3/ppo, sb3/trpo, ..."""
    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="env", metavar="ENV")]
    """The environment: any Gymnasium id, as HalfCheetah-v4."""
    total_timesteps: int = 1_000_000
    """Environment steps to train for, summed over the environments."""
    num_envs: int = 1
    """Environments that step together."""
    seed: int = 0
    """Decides everything random: weights, actions, environments."""
    out: Path | None = None
    """Run directory, absent or empty. Unset: runs/<algo>/<env>/seed<S>-<time>."""
    resume: Path | None = None
    """Run directory to go on with from its last checkpoint; other settings then come from its config.yaml."""
    init: Path | None = None
    """Run directory or checkpoint whose policy this run begins with, whatever else it does otherwise."""
    device: str = "auto"
    """Where the networks are: auto, cpu, cuda."""
    torch_threads: int = 1
    """Threads of torch on the CPU; more than one slows small networks down, and any where other programs keep the cores
    busy."""
    matmul_precision: str = "highest"
    """How float32 products are computed, in torch's words: highest (float32), high (TensorFloat32) or medium
    (bfloat16), several times faster where the processor or GPU has such units; weights and sums stay float32."""
    eval_freq: int = 20_000
    """Environment steps between evaluations; 0: none. Unless given, a fiftieth of all, but at least 1000."""
    eval_episodes: int = 10
    """Episodes of one evaluation, with the deterministic policy, on environments of their own."""
    eval_samples: int = 8
    """Text: responses sampled to a problem for pass@k, as many in all as there are episodes; 1: no pass@k."""
    checkpoint_freq: int = 50_000
    """Environment steps between checkpoints; 0: only at the end. Unless given, a twentieth, but at least 1000."""
    keep_last: int = 3
    """Periodic checkpoints (step-<N>) to keep, beside latest and best; 0: all."""
    progress: bool = True
    """Show a progress bar, where stderr is a terminal."""
    quiet: bool = False
    """Print nothing but errors and the closing summary."""
    debug: bool = False
    """Show the traceback of an error."""

    warmup: Any = None
    agent: Any = None
    env: Any = None

    def check(self) -> None:
        """Raise ValueError for impossible values."""
        for name in ("total_timesteps", "num_envs", "eval_episodes", "eval_samples", "torch_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{option(name)} must be at least 1, got {getattr(self, name)}")
        check_precision(self.matmul_precision)
        for name in ("seed", "eval_freq", "checkpoint_freq", "keep_last"):
            if getattr(self, name) < 0:
                raise ValueError(f"{option(name)} must not be negative, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"--seed must be below 2**32, got {self.seed}")
        if self.init is not None and self.algo.startswith("sb3/"):
            raise ValueError(f"--init is for this project's agents; {self.algo} begins with weights of its own")

    def config(self) -> dict[str, Any]:
        """All settings as plain values, for config.yaml."""
        values = plain(self)
        for name in ("out", "resume", "progress", "quiet", "debug"):
            del values[name]
        values["env_options"] = values.pop("env")
        values["env"] = values.pop("env_id")
        last = {name: values.pop(name) for name in ("env_options", "warmup", "agent")}
        if last["warmup"] is None:  # Stable-Baselines3's agents
            del last["warmup"]
        first = {name: values.pop(name) for name in ("algo", "env")}
        return {**first, **values, **last}

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The environment options that differ from the environment's own defaults."""
        return {
            field.name: getattr(self.env, field.name)
            for field in dataclasses.fields(self.env)
            if getattr(self.env, field.name) != field_default(field)
        }


def parse_run(argv: list[str]) -> RunOptions:
    """The options of `experiments.run`; raises ValueError, or prints the help and exits."""
    resume = _value_of("--resume", argv)
    saved: dict[str, Any] | None = None
    if resume is not None:
        from experiments.rundir import open_run

        saved = open_run(Path(resume)).read_config()
    algo, env_id = _positionals(argv)
    if saved is not None and algo is None:
        algo, env_id = str(saved["algo"]), str(saved["env"])
        argv = [algo, env_id, *argv]
    if algo is None or env_id is None:
        if algo is not None and "--help" not in argv and "-h" not in argv:
            check_algorithm(algo)
            raise ValueError(f"name the environment too, as in: python -m experiments.run {algo} HalfCheetah-v4")
        return _general_help(argv)
    check_algorithm(algo)
    if saved is not None and (algo, env_id) != (saved["algo"], saved["env"]):
        raise ValueError(f"{resume} is a run of {saved['algo']} on {saved['env']}, not of {algo} on {env_id}")
    env_type = env_options(env_id)
    agent_type = config_type(algo)
    if saved is None:
        variants = _value_of("--agent.model", argv) or "tiny", _value_of("--env.actions", argv) or "typed"
        default = _tuned_options(algo, env_id, agent_type, env_type, variants)
        default = _with_intervals(default, _value_of("--total-timesteps", argv))
    else:
        default = from_config(saved, agent_type, env_type)
    description = f"Train {algo} on {env_id}. The defaults shown are those that apply to this pair."
    options = cli.parse(
        _typed(algo, agent_type, env_type),
        argv,
        prog="python -m experiments.run",
        description=description,
        default=default,
    )
    if saved is not None:
        _refuse_contradictions(default, options, resume)
    options.check()
    return options


def from_config(saved: Mapping[str, Any], agent_type: type, env_type: type) -> RunOptions:
    """The options that a config.yaml records."""
    return _typed(saved["algo"], agent_type, env_type)(
        env_id=saved["env"],
        warmup=_warmup(saved["algo"], saved.get("warmup") or {}, "warm-up settings in config.yaml"),
        agent=build(agent_type, saved.get("agent") or {}, "agent settings in config.yaml"),
        env=build(env_type, saved.get("env_options") or {}, "environment options in config.yaml"),
        **saved_fields(RunOptions, saved),
    )


def saved_fields(kind: type, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.yaml has for the fields of `kind`, but for the parts that are dataclasses of their own."""
    names = {field.name for field in dataclasses.fields(kind)} - {"agent", "env", "env_id", "warmup"}
    return fitted(kind, {name: value for name, value in saved.items() if name in names}, "config.yaml")


def tuned(algo: str, env_id: str, folder: Path = CONFIGS, variants: Sequence[str] = ("tiny",)) -> dict[str, Any]:
    """The tuned settings of `algo` on `env_id`: the file's default entry, then patterns, then the id itself.

    variants: the language model, the form of actions, ..., whose own entries come after those for all.
    Returns a dict with some of the keys `TUNABLE`, of which `env`, `agent` and `warmup` are dicts of fields. Raises
    ValueError for unknown keys.
    """
    path = folder / f"{file_name(algo)}.yaml"
    if not path.exists():
        return {}
    entries = load_yaml_value(path.read_text()) or {}
    matching: list[tuple[int, int, str]] = []  # how well they fit, the best last
    for name in entries:
        pattern, _, wanted = name.partition(" @ ")
        if wanted in ("", *variants) and (pattern == "default" or fnmatch.fnmatchcase(env_id, pattern)):
            exactness = 0 if pattern == "default" else 2 if pattern == env_id else 1
            matching.append((exactness, len(wanted) > 0, name))
    merged: dict[str, Any] = {"env": {}, "agent": {}, "warmup": {}}
    for _, _, name in sorted(matching, key=lambda match: match[:2]):
        entry = entries[name] or {}
        for key in entry:
            if key not in TUNABLE:
                raise ValueError(f"{path.name}, {name}: there is no setting {key!r}.{hint(key, TUNABLE)}")
        for part in ("env", "agent", "warmup"):
            merged[part].update(entry.get(part) or {})
        merged.update({key: value for key, value in entry.items() if key not in ("env", "agent", "warmup")})
    return merged


def build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """`kind(**values)`, of values that come from YAML."""
    return kind(**fitted(kind, values, where))


def fitted(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values from YAML as the dataclass `kind` has them: lists as tuples and integers as floats where a field is one.

    Raises ValueError, which says `where`, for fields that `kind` has not, and for values of another type than theirs.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types = get_type_hints(kind)
    ready = {}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(f"{where}: there is no setting {name!r}.{hint(name, fields)}")
        default = field_default(fields[name])
        if isinstance(value, list) and (isinstance(default, tuple) or "tuple" in str(fields[name].type)):
            value = tuple(value)
        if isinstance(value, int) and isinstance(default, float) and not isinstance(value, bool):
            value = float(value)
        if isinstance(value, str) and types[name] == Path | None:
            value = Path(value)
        try:
            check_type(value, types[name], collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError:
            wanted = types[name].__name__ if isinstance(types[name], type) else types[name]
            raise ValueError(f"{where}: {name} must be {wanted}, got {value!r}") from None
        ready[name] = value
    return ready


def config_type(algo: str) -> type:
    """The dataclass of the algorithm's own settings."""
    if algo.startswith("sb3/"):
        from experiments import sb3

        return sb3.config_type(algo)
    import agents

    return agents.ALGORITHMS[algo].Config


def check_algorithm(algo: str) -> None:
    """Raise ValueError, naming the nearest, where there is no algorithm of that name."""
    known = (*ALGORITHMS, *SB3_ALGORITHMS)
    if algo not in known:
        raise ValueError(f"there is no algorithm {algo!r}.{hint(algo, known) or ' Known: ' + ', '.join(known)}")


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision of products that torch does not have."""
    if precision not in PRECISIONS:
        raise ValueError(f"--matmul-precision must be one of {', '.join(PRECISIONS)}, got {precision}")


def prepare_torch(device: str, threads: int = 1, matmul_precision: str = "highest") -> None:
    """Torch's threads and the precision of its products, for this process. Raises ValueError where torch cannot put a
    network on `device`."""
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(matmul_precision)
    onednn: Any = torch.backends.mkldnn
    onednn.conv.fp32_precision = onednn.matmul.fp32_precision  # torch's switch leaves convolutions alone
    if device == "auto":
        return
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        reason = str(problem).split(". ")[0].splitlines()[0]
        raise ValueError(f"--device {device} cannot be used here: {reason}") from problem


def hint(name: str, known: Iterable[str]) -> str:
    """' Did you mean x?' or ''."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def option(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what YAML can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def field_default(field: dataclasses.Field[Any]) -> Any:
    """The default of a dataclass field, or None."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _tuned_options(algo: str, env_id: str, agent_type: type, env_type: type, variants: Sequence[str]) -> RunOptions:
    values, where = tuned(algo, env_id, variants=variants), f"{file_name(algo)}.yaml"
    agent = build(agent_type, values.pop("agent", {}), where)
    env = build(env_type, values.pop("env", {}), where)
    warmup = _warmup(algo, values.pop("warmup", {}), where)
    kind = _typed(algo, agent_type, env_type)
    return kind(algo=algo, env_id=env_id, agent=agent, env=env, warmup=warmup, **values)


def _warmup(algo: str, values: Mapping[str, Any], where: str) -> Any:
    """The settings of the warm-up; None for Stable-Baselines3's agents, which have none."""
    if algo.startswith("sb3/"):
        return None
    from experiments.warmup import Options

    return build(Options, values, where)


def _with_intervals(default: RunOptions, total: str | None) -> RunOptions:
    """`default` with the intervals that follow from the number of steps given, if one is, or the tuned one."""
    try:
        steps = int(total or default.total_timesteps)
    except ValueError:  # which the parser will say
        steps = default.total_timesteps
    return dataclasses.replace(default, eval_freq=max(1000, steps // 50), checkpoint_freq=max(1000, steps // 20))


def _typed(algo: str, agent_type: type, env_type: type) -> type[RunOptions]:
    """RunOptions with the types of `warmup`, `agent` and `env` known, which is what tyro goes by."""
    warmup = _warmup(algo, {}, "")
    warmup_type: Any = Annotated[None, tyro.conf.Suppress] if warmup is None else type(warmup)
    fields: list[Any] = [("warmup", warmup_type), ("agent", agent_type), ("env", env_type)]
    return dataclasses.make_dataclass("RunOptions", fields, bases=(RunOptions,), kw_only=True)


def _refuse_contradictions(saved: RunOptions, given: RunOptions, resume: str | None) -> None:
    """Raise ValueError where the command line contradicts the configuration of the run to resume."""
    if given.out is not None:
        raise ValueError("--out cannot be combined with --resume: a resumed run stays in its directory")
    before, now = plain(saved), plain(given)
    for name in before:
        pairs = [(option(name), before[name], now[name])]
        if name in ("agent", "env", "warmup"):
            parts = before[name] or {}
            pairs = [(f"--{name}.{option(key)[2:]}", parts[key], now[name][key]) for key in parts]
        for spelling, old, new in pairs:
            if name not in CHANGEABLE and old != new:
                raise ValueError(
                    f"{spelling} {new} contradicts the run in {resume}, which has {old}; "
                    "a resumed run keeps its settings, all but --total-timesteps"
                )


def _value_of(name: str, argv: list[str]) -> str | None:
    """The value that follows an option on the command line, the last time where it is given twice."""
    found = None
    for index, word in enumerate(argv):
        spelling, equals, value = word.partition("=")
        if spelling.replace("_", "-") == name:
            found = value if equals else next(iter(argv[index + 1 :]), None)
    return found


def _positionals(argv: list[str]) -> tuple[str | None, str | None]:
    """ALGO and ENV: the first two words, or else an algorithm's name and the word after it."""
    if argv and not argv[0].startswith("-"):
        start = 0
    else:
        known = (*ALGORITHMS, *SB3_ALGORITHMS)
        start = next((index for index, word in enumerate(argv) if word in known), len(argv))
    words = argv[start : start + 2]
    words = words[:1] if len(words) == 2 and words[1].startswith("-") else words
    return (words[0] if words else None, words[1] if len(words) == 2 else None)


def _general_help(argv: list[str]) -> RunOptions:
    """The help for a command line that names no algorithm and environment."""
    if not {"--help", "-h"} & set(argv):
        raise ValueError("name an algorithm and an environment, as in: python -m experiments.run trpo HalfCheetah-v4")
    description = (
        f"Train an agent. ALGO: {', '.join((*ALGORITHMS, *SB3_ALGORITHMS))}. ENV: a Gymnasium id.\n\n"
        "Tuned settings depend on both: `python -m experiments.run trpo HalfCheetah-v4 --help` shows the "
        "defaults that apply, and the algorithm's own settings (--agent.<field>)."
    )
    kind = dataclasses.make_dataclass("RunOptions", [], bases=(_General,), kw_only=True)
    cli.parse(kind, ["--help"], prog="python -m experiments.run", description=description)
    sys.exit(0)


@dataclass(kw_only=True)
class _General(RunOptions):
    """RunOptions without the parts that depend on the algorithm and the environment."""

    warmup: tyro.conf.Suppress[None] = None
    agent: tyro.conf.Suppress[None] = None
    env: tyro.conf.Suppress[None] = None


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("rl-suite", "torch", "numpy", "gymnasium", "mujoco", "stable-baselines3", "sb3-contrib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def save_config(run: RunDir, options: RunOptions, argv: list[str]) -> None:
    """Write config.yaml."""
    run.write_config({**options.config(), "versions": versions(), "command": " ".join(argv)})
