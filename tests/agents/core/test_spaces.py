"""Spaces survive a description, observations survive flattening, text survives its bytes."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st

from agents.core import checkpoint
from agents.core.buffer import Ragged
from agents.core.spaces import (
    decode_text,
    describe,
    encode_text,
    field_of,
    fields_of,
    flatten,
    leaves,
    observation_tensors,
    rebuild,
    same,
)

BOX = spaces.Box(np.array([-1.0, -np.inf]), np.array([0.3, 2.0]), dtype=np.float64)
IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
TEXT = spaces.Text(12, min_length=2, charset="abé")
SPACES = [
    BOX,
    IMAGE,
    spaces.Box(-1.0, 1.0, ()),
    spaces.Box(-9, 9, (2,), np.int32),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([3, 2], start=[1, 5]),
    spaces.MultiDiscrete([[3, 2], [4, 4]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 2)),
    TEXT,
    spaces.Tuple((BOX, spaces.Discrete(2))),
    spaces.Dict(OrderedDict(z=BOX, a=spaces.Dict({"image": IMAGE, "text": TEXT}))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_described_space_is_rebuilt_from_a_file(tmp_path, space):
    stored = checkpoint.load(checkpoint.save(tmp_path / "space", {"space": describe(space)}))
    rebuilt = rebuild(stored["space"])
    assert rebuilt == space
    assert same(rebuilt, space)
    assert list(leaves(rebuilt)) == list(leaves(space))  # features come in this order
    for other in SPACES:
        assert same(space, other) == (space is other)


def test_the_type_of_discrete_actions_is_kept():
    for space in (spaces.Discrete(3, dtype=np.int32), spaces.MultiDiscrete([2, 3], dtype=np.int32)):
        assert rebuild(describe(space)).dtype == np.int32
    assert same(spaces.Discrete(3, dtype=np.int32), spaces.Discrete(3))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 2, (2,))),
        (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (3,))),
        (spaces.Discrete(3), spaces.Discrete(3, start=1)),
        (spaces.MultiDiscrete([3, 3]), spaces.MultiDiscrete([3, 3], start=[0, 1])),
        (spaces.Dict({"a": TEXT}), spaces.Dict({"b": TEXT})),
        (spaces.Dict({"a": spaces.Discrete(2)}), spaces.Dict({"a": spaces.Discrete(3)})),
        (spaces.Tuple((BOX,)), spaces.Tuple((BOX, BOX))),
    ],
)
def test_spaces_that_differ(a, b):
    assert not same(a, b)
    assert same(a, a)


def test_an_unknown_space_is_refused():
    graph = spaces.Graph(BOX, None)
    for function in (field_of, describe):
        with pytest.raises(ValueError, match="Graph"):
            function(graph)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_sampled_observations_become_tensors_of_their_fields(space):
    space.seed(0)
    n = 3
    batch = batch_space(space, n).sample()
    tensors = observation_tensors(space, batch, torch.device("cpu"))
    named = tensors if isinstance(tensors, dict) else {"": tensors}
    assert list(named) == list(leaves(space))
    raw = flatten(space, batch, "")
    for name, tensor in named.items():
        field = fields_of(space, "")[name]
        if isinstance(tensor, Ragged):
            assert field.ragged
            assert decode_text(tensor) == list(raw[name])
        else:
            assert tensor.shape == (n, *field.shape)
            assert tensor.dtype == field.dtype
            np.testing.assert_allclose(tensor, np.asarray(raw[name]), rtol=1e-6)


def test_leaf_paths():
    assert list(leaves(SPACES[-1], "obs")) == ["obs.z", "obs.a.image", "obs.a.text"]
    assert list(leaves(SPACES[-2])) == ["0", "1"]
    assert list(leaves(BOX, "obs")) == ["obs"]


def test_storage_types():
    expected = {"float64": torch.float32, "uint8": torch.uint8, "int32": torch.int64, "bool": torch.uint8}
    for dtype, stored in expected.items():
        assert field_of(spaces.Box(0, 1, (2,), np.dtype(dtype).type)).dtype == stored


@given(st.lists(st.text(max_size=8)))
def test_text_survives_its_bytes(texts):
    rows = [torch.from_numpy(row.copy()) for row in encode_text(texts)]
    assert decode_text(Ragged.of(rows, torch.uint8)) == texts
