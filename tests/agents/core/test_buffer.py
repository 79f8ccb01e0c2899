"""The buffer against a Python list, under random histories of writes, clears, forgotten episodes and reloads."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.core import checkpoint
from agents.core.buffer import Batch, Buffer, Field, Ragged, tree

PLAIN = {
    "obs.pixels": Field((2, 2), torch.uint8),
    "obs.text": Field((), torch.uint8, ragged=True),
    "action": Field((), torch.int64),
    "tokens": Field((2,), torch.int64, ragged=True),
    "reward": Field(),
    "terminated": Field(),
    "truncated": Field(),
}
EPISODIC = {**PLAIN, "episode_id": Field((), torch.int64), "group_id": Field((), torch.int64)}


class Model:
    """What a buffer must hold: every row ever written, in a list."""

    def __init__(self, num_envs, seed, episodic):
        self.num_envs, self.rng, self.episodic = num_envs, np.random.default_rng(seed), episodic
        self.rows, self.start, self.forgotten = [], 0, set()
        self.episode_id, self.next_id = list(range(num_envs)), num_envs

    def row(self, ends):
        """One new row; `ends` says how each environment's step ends: 0 not at all, 1 terminated, 2 truncated."""
        n, rng = self.num_envs, self.rng
        row = {
            "obs.pixels": rng.integers(0, 256, (n, 2, 2), np.uint8),
            "obs.text": [rng.integers(0, 256, rng.integers(0, 9), np.uint8) for _ in range(n)],
            "action": rng.integers(-5, 5, n),
            "tokens": [rng.integers(0, 99, (rng.integers(0, 400), 2)) for _ in range(n)],
            "reward": rng.integers(-8, 9, n).astype(np.float32),
            "terminated": (np.array(ends) == 1).astype(np.float32),
            "truncated": (np.array(ends) == 2).astype(np.float32),
        }
        if self.episodic:
            row["episode_id"] = np.array(self.episode_id)
            row["group_id"] = np.array(self.episode_id) // 3
            for i in range(n):
                if ends[i]:
                    self.episode_id[i], self.next_id = self.next_id, self.next_id + 1
        self.rows.append(row)
        return row

    def finished(self):
        """(episode id, [(row, env), ...]) of every finished episode that was not forgotten."""
        steps = {}
        over = set()
        for t, row in enumerate(self.rows):
            for i in range(self.num_envs):
                steps.setdefault(int(row["episode_id"][i]), []).append((t, i))
                if row["terminated"][i] or row["truncated"][i]:
                    over.add(int(row["episode_id"][i]))
        return {e: steps[e] for e in sorted(over - self.forgotten)}


def write(buffer, row):
    for name, value in row.items():
        buffer.put(name, value)
    buffer.advance()


def reloaded(buffer):
    fresh = Buffer(buffer.schema, 1, buffer.num_envs, seed=99)
    fresh.load_state_dict(buffer.state_dict())
    return fresh


def check_rows(batch, rows, num_envs, skip=()):
    for name in batch:
        if name in skip:
            continue
        if isinstance(batch[name], Ragged):
            expected = [value for row in rows for value in row[name]]
            found = batch[name].rows()
            assert len(found) == len(expected) == len(rows) * num_envs
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        else:
            assert np.array_equal(batch[name], np.stack([row[name] for row in rows]))


def key(row, i):
    return (
        row["obs.pixels"][i].tobytes(),
        row["obs.text"][i].tobytes(),
        row["tokens"][i].tobytes(),
        int(row["action"][i]),
    )


ends = st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=2, max_size=2)
histories = st.lists(st.one_of(ends, ends, ends, st.sampled_from(["clear", "forget", "reload"])), max_size=40)


@given(histories, st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_ring_is_a_list_that_forgets_its_beginning(history, capacity, seed):
    buffer, model = Buffer(PLAIN, capacity, 2, seed=seed), Model(2, seed, episodic=False)
    for step in history:
        match step:
            case "clear":
                buffer.clear()
                model.start = len(model.rows)
            case "reload":
                buffer = reloaded(buffer)
            case list():
                write(buffer, model.row(step))
        assert len(buffer) == min(len(model.rows), capacity)
        since = model.rows[model.start :]
        if len(since) > capacity:
            with pytest.raises(ValueError, match="holds"):
                buffer.rollout()
        elif since:
            check_rows(buffer.rollout(), since, 2)
    held = {key(row, i) for row in model.rows[-capacity:] for i in range(2)}
    if held:
        batch = buffer.sample(32)
        rows = {name: v.rows() if isinstance(v, Ragged) else v for name, v in batch.items()}
        numpy = {name: [np.asarray(x) for x in value] for name, value in rows.items()}
        assert {key(numpy, i) for i in range(32)} <= held


@given(histories, st.integers(1, 5), st.integers(0, 2**32 - 1), st.data())
def test_episodes_are_kept_whole_until_forgotten(history, capacity, seed, data):
    buffer, model = Buffer(EPISODIC, capacity, 2, seed=seed), Model(2, seed, episodic=True)
    for step in history:
        match step:
            case "clear":
                buffer.clear()
                model.start = len(model.rows)
            case "reload":
                buffer = reloaded(buffer)
            case "forget":
                ids = data.draw(st.lists(st.sampled_from([*model.finished(), -7]), max_size=3))
                buffer.forget(torch.tensor(ids, dtype=torch.int64))
                model.forgotten |= set(ids)
            case list():
                write(buffer, model.row(step))
        expected, found = model.finished(), buffer.episodes()
        assert found.episode_id.tolist() == list(expected)
        assert found.length.tolist() == [len(steps) for steps in expected.values()]
        assert found.group_id.tolist() == [e // 3 for e in expected]
        where = [step for steps in expected.values() for step in steps]
        assert found.segment.tolist() == [k for k, steps in enumerate(expected.values()) for _ in steps]
        assert found.steps["action"].tolist() == [int(model.rows[t]["action"][i]) for t, i in where]
        for a, (t, i) in zip(found.steps["tokens"].rows(), where, strict=True):
            assert np.array_equal(a, model.rows[t]["tokens"][i])
        returns = [sum(float(model.rows[t]["reward"][i]) for t, i in steps) for steps in expected.values()]
        sums = torch.zeros(len(found)).index_add(0, found.segment, found.steps["reward"])
        assert found.ret.tolist() == sums.tolist() == returns


def test_a_long_episode_makes_the_ring_grow_and_a_forgotten_one_frees_it():
    buffer, model = Buffer(EPISODIC, 4, 2), Model(2, 0, episodic=True)
    for _ in range(21):
        write(buffer, model.row([0, 1]))
    assert buffer.capacity == 32
    check_rows(buffer.rollout(), model.rows, 2)
    write(buffer, model.row([1, 1]))
    for _ in range(200):
        buffer.forget(buffer.episodes().episode_id)
        write(buffer, model.row([1, 2]))
    assert buffer.capacity == 32


def test_a_ring_that_grew_after_it_went_round_holds_no_rows_of_nobody():
    buffer = Buffer({"episode_id": Field((), torch.int64), "group_id": Field((), torch.int64)}, 4, 1)

    def write(episode, rows):
        for _ in range(rows):
            buffer.put("episode_id", [episode])
            buffer.put("group_id", [0])
            buffer.advance()

    for episode in range(1, 4):
        write(episode, 2)
        buffer.forget(torch.tensor([episode]))
    write(4, 20)
    capacity = buffer.capacity
    assert capacity >= 20
    buffer.forget(torch.tensor([4]))
    for episode in range(5, 40):  # short ones again: nothing need grow any more
        write(episode, 2)
        buffer.forget(torch.tensor([episode]))
    assert buffer.capacity == capacity


def test_numpy_views_and_whole_rollouts_copy_nothing():
    buffer = Buffer({"x": Field((3,)), "a": Field((), torch.int64)}, 4, 2)
    buffer.put("x", np.ones((2, 3)))
    assert bool((buffer.open_row("x") == 1).all())
    for name, view in buffer.numpy.items():
        assert np.shares_memory(view, buffer.data[name].numpy())
    buffer.advance()
    assert buffer.rollout()["x"].data_ptr() == buffer.data["x"].data_ptr()
    buffer.numpy["x"][0] = 5.0
    assert bool((buffer.rollout()["x"] == 5).all())


def test_a_rollout_over_the_ring_s_end_is_put_in_order():
    buffer = Buffer({"x": Field()}, 5, 1)
    for t in range(8):
        if t == 4:
            buffer.clear()
        buffer.put("x", [t])
        buffer.advance()
    assert buffer.rollout()["x"].flatten().tolist() == [4, 5, 6, 7]


def counts(buffer, draws):
    return np.bincount(buffer.sample(draws)["id"].numpy(), minlength=20)


def filled(capacity, rows, seed=0, valid=None):
    schema = {"id": Field((), torch.int64)} | ({} if valid is None else {"valid": Field((), torch.uint8)})
    buffer = Buffer(schema, capacity, 2, seed=seed)
    for t in range(rows):
        buffer.put("id", [2 * t, 2 * t + 1])
        if valid is not None:
            buffer.put("valid", valid[t])
        buffer.advance()
    return buffer


@pytest.mark.parametrize("capacity", [16, 4])
def test_sampling_is_uniform_over_what_is_stored(capacity):
    draws = 20_000
    stored = np.zeros(20, bool)
    stored[2 * max(0, 8 - capacity) : 16] = True
    found = counts(filled(capacity, 8), draws)
    assert not found[~stored].any()
    p = 1 / stored.sum()
    assert np.abs(found[stored] - draws * p).max() < 5 * np.sqrt(draws * p * (1 - p))


def test_sampling_follows_from_the_seed():
    one, same, other = filled(8, 8, seed=1), filled(8, 8, seed=1), filled(8, 8, seed=2)
    first = one.sample(64)["id"]
    assert torch.equal(first, same.sample(64)["id"])
    assert not torch.equal(first, other.sample(64)["id"])
    again = reloaded(one)
    assert torch.equal(one.sample(64)["id"], again.sample(64)["id"])
    assert set(one.sample(64, ["id"])) == {"id"}


def test_invalid_rows_never_come_back():
    valid = [[1, 0], [0, 0], [1, 1], [0, 1]]
    buffer = filled(4, 4, valid=valid)
    ids = {2 * t + i for t in range(4) for i in range(2) if valid[t][i]}
    assert set(buffer.sample(2000)["id"].tolist()) == ids
    assert set(buffer.rollout().flat()["id"].tolist()) == ids
    assert counts(buffer, 20_000)[sorted(ids)].min() > 4700  # four equal shares of 20,000, sigma 61
    with pytest.raises(ValueError, match="every stored row"):
        filled(1, 1, valid=[[0, 0]]).sample(1)


@pytest.mark.parametrize("rows", [0, 3, 11])
def test_state_goes_through_a_checkpoint_file(tmp_path, rows):
    buffer, model = Buffer(PLAIN, 5, 2, seed=3), Model(2, 0, episodic=False)
    for t in range(rows):
        if t == 8:
            buffer.clear()
            model.start = t
        write(buffer, model.row([0, 1]))
    state = checkpoint.load(checkpoint.save(tmp_path / "buffer", buffer.state_dict()))
    assert len(state["data"]["reward"]) == min(rows, 5)
    restored = Buffer(PLAIN, 5, 2)
    restored.load_state_dict(state)
    for _ in range(3):  # both go on alike
        row = model.row([0, 0])
        write(buffer, row)
        write(restored, row)
        ours, theirs = buffer.sample(16), restored.sample(16)
        assert torch.equal(ours["action"], theirs["action"])
        assert torch.equal(ours["tokens"].values, theirs["tokens"].values)
    if len(model.rows) - model.start <= 5:
        check_rows(restored.rollout(), model.rows[model.start :], 2)


def test_a_state_of_another_shape_is_refused():
    state = Buffer({"x": Field((3,))}, 2, 2).state_dict()
    for other in (Buffer({"x": Field((4,))}, 2, 2), Buffer({"y": Field((3,))}, 2, 2), Buffer({"x": Field((3,))}, 2, 1)):
        with pytest.raises(ValueError, match="does not fit"):
            other.load_state_dict(state)


def test_an_empty_buffer_refuses():
    with pytest.raises(ValueError, match="empty"):
        Buffer(PLAIN, 2, 2).sample(1)
    for capacity, num_envs in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="needs capacity"):
            Buffer(PLAIN, capacity, num_envs)


def test_trees_of_leaf_paths():
    batch = Batch({"obs.a": 1, "obs.b.c": 2, "observer": 3, "next_obs": 4})
    assert batch.obs == {"a": 1, "b.c": 2}
    assert batch.next_obs == 4
    assert tree({"obs": 5, "obs2": 6}, "obs") == 5


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.data())
def test_taking_ragged_rows(lengths, data):
    rows = [torch.arange(n) + 10 * k for k, n in enumerate(lengths)]
    ragged = Ragged.of(rows, torch.int64)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    taken = ragged.take(torch.tensor(index, dtype=torch.int64))
    assert len(taken) == len(index)
    assert [row.tolist() for row in taken.rows()] == [rows[i].tolist() for i in index]
