"""Checkpoints give back what they got, refuse what they are not, and never damage what was there."""

import contextlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

import agents
import envs
from agents.core import checkpoint
from agents.core.errors import CheckpointError

EVERYTHING = {
    "numbers": [0, -1, 2**127 + 1, 1e-300, float("inf"), True, None, "é\n\u2028"],
    "pcg64": np.random.default_rng(3).bit_generator.state,
    "by number": {0: {"step": torch.tensor(3.0)}, 1: "one"},
    "nested/slash": torch.arange(3),
    "nested": {"slash": torch.arange(3, 6), "$": "dollar", "": torch.ones(1)},
    "tuple": (1, (2.5, [torch.zeros(0, 4)])),
    "scalars": [np.array(7), np.array(True), torch.tensor(2.0), np.float32(0.1), np.int64(-3), np.bool_(False)],
    "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "float16": torch.tensor([1.5], dtype=torch.float16),
    "uint64": np.array([2**64 - 1, 0], np.uint64),
    "strided": np.arange(12).reshape(3, 4)[::-1, ::2],
    "expanded": torch.ones(1, 3).expand(4, 3),
    "bool": torch.tensor([True, False]),
    "empty": [{}, [], (), ""],
}


def same(a, b):
    if isinstance(a, np.generic):
        a = a.item()
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor | np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f") if isinstance(a, np.ndarray) else torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a == b


def test_everything_comes_back(tmp_path):
    same(EVERYTHING, checkpoint.load(checkpoint.save(tmp_path / "all", EVERYTHING)))


arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.uint64, np.bool_]), hnp.array_shapes(min_dims=0)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | arrays,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab/$", max_size=3), inner, max_size=3)
        | st.dictionaries(st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text("ab/$", max_size=3), values, max_size=4))
def test_random_trees_come_back(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("tree") / "state"
    loaded = checkpoint.load(checkpoint.save(path, state))
    same(state, loaded)


def test_equal_states_give_equal_bytes(tmp_path):
    files = {checkpoint.save(tmp_path / str(i), EVERYTHING).read_bytes() for i in range(5)}
    assert len(files) == 1


def test_names_and_suffixes(tmp_path):
    state = {"x": 1}
    assert checkpoint.save(tmp_path / "deep" / "plain", state) == tmp_path / "deep" / "plain.safetensors"
    assert checkpoint.save(tmp_path / "model.zip", state) == tmp_path / "model.zip"
    for name in ("deep/plain", "deep/plain.safetensors", "model.zip"):
        assert checkpoint.load(tmp_path / name) == state
    for name in ("nothing", "deep"):
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            checkpoint.load(tmp_path / name)


def one_sentence(error):
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    return True


@pytest.fixture
def saved(tmp_path):
    return checkpoint.save(tmp_path / "saved", {"algorithm": "trpo", "weights": torch.randn(40), "list": [1, 2]})


def test_truncated_at_any_length_is_refused(saved):
    whole = saved.read_bytes()
    for length in [*range(0, 32), *range(32, len(whole), 7), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated") as error:
            checkpoint.load(saved)
        assert one_sentence(error)


@settings(max_examples=200)
@given(st.data())
def test_damage_never_gives_anything_but_a_checkpoint_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    checkpoint.save(path, {"algorithm": "trpo", "weights": torch.zeros(4), "n": [1, (2, 3)]})
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    with contextlib.suppress(CheckpointError):  # and damage to a number cannot be seen
        checkpoint.load(path)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(path)
    assert one_sentence(error)


def test_foreign_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(3)}, foreign)
    with pytest.raises(CheckpointError, match="not a checkpoint of this library") as error:
        agents.load(foreign)
    assert one_sentence(error)
    save_file({"weight": torch.ones(3)}, foreign, {"format": "pt"})
    with pytest.raises(CheckpointError, match="not a checkpoint of this library"):
        agents.load(foreign)
    pickled = tmp_path / "old.pt"
    torch.save({"weight": torch.ones(3)}, pickled)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        agents.load(pickled)
    for state in ({}, {"algorithm": "sarsa-max"}):
        with pytest.raises(CheckpointError, match="unknown algorithm") as error:
            agents.load(checkpoint.save(tmp_path / "other", state))
        assert one_sentence(error)


@pytest.mark.parametrize(("step", "named"), [(1, "newer"), (-1, "earlier")])
def test_another_version_is_refused(saved, monkeypatch, step, named):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "VERSION", checkpoint.VERSION + step)
        checkpoint.save(saved, {"x": 1})
    with pytest.raises(CheckpointError, match=f"{named} version") as error:
        checkpoint.load(saved)
    assert one_sentence(error)


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_value_that_cannot_be_saved_leaves_the_file_alone(saved):
    before = saved.read_bytes()
    for bad in (object(), {1, 2}, b"bytes", np.array(["text"]), np.array([object()])):
        with pytest.raises(TypeError):
            checkpoint.save(saved, {"a": torch.ones(3), "b": bad})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize("step", ["save_file", "fsync", "replace"])
def test_an_interrupted_write_leaves_the_file_alone(saved, monkeypatch, step):
    before = saved.read_bytes()

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint if step == "save_file" else checkpoint.os, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(saved, {"a": torch.ones(3)})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


FULL_DISK = """
import resource, sys, torch
from agents.core import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # any write beyond it fails, as on a full disk
try:
    checkpoint.save(sys.argv[1], {"big": torch.ones(100_000)})
except OSError as error:
    print("refused:", error)
"""


def test_a_full_disk_leaves_the_file_alone(saved):
    before = saved.read_bytes()
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, saved], capture_output=True, text=True, cwd=Path(agents.__file__).parents[1]
    )
    assert run.stdout.startswith("refused:"), run.stdout + run.stderr
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_no_pickle_anywhere(saved, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    agent = agents.TRPO("CartPole-v1", n_steps=4, hidden=(4,)).learn(64)
    env = envs.make_vec("CartPole-v1", 16)
    with monkeypatch.context() as patch:
        for name in ("load", "loads", "dump", "dumps"):
            patch.setattr(pickle, name, refuse)
        for cls in (pickle.Pickler, pickle.Unpickler):
            patch.setattr(pickle, cls.__name__, type(cls.__name__, (), {"__init__": refuse}))
        patch.setattr(torch, "load", refuse)
        patch.setattr(torch, "save", refuse)
        path = agent.save(saved.parent / "agent", exact=True)
        assert agents.load(path, env).restored_exactly
    sources = Path(agents.__file__).parent.rglob("*.py")
    words = ("pickle.", "import pickle", "torch.load", "torch.save", "cloudpickle", "eval(", "exec(")
    found = [(path.name, word) for path in sources for word in words if word in path.read_text().replace(".eval(", "")]
    assert found == []


def test_a_checkpoint_is_as_readable_as_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    path = checkpoint.save(tmp_path / "agent", {"weights": torch.zeros(1)})
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
