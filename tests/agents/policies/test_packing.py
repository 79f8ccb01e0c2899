"""The plan of training passes: what goes together, how much is padding, and how even packs are."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.policies.packing import plan

LENGTHS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 60)), min_size=1, max_size=40)


@given(LENGTHS, st.integers(50, 400), st.booleans(), st.sampled_from([64, None]))
def test_every_response_is_fed_once_within_the_limit_and_with_little_padding(rows, most, share, width):
    prompts = [torch.full((10 * kind,), kind) for kind, _ in rows]
    responses = [torch.zeros(length, dtype=torch.int64) for _, length in rows]
    passes = plan(prompts, responses, most, width=width, share=share)
    assert sorted(i for packs in passes for pack in packs for i in pack.rows) == list(range(len(rows)))
    for packs in passes:
        longest = max(pack.length for pack in packs)
        fed = sum(pack.length for pack in packs)
        assert len(packs) * longest <= 1.25 * fed
        assert len(packs) * longest <= most or len(packs) == 1
        for pack in packs:
            assert len({len(prompts[i]) for i in pack.rows}) == 1
            assert pack.length == len(prompts[pack.rows[0]]) + sum(len(responses[i]) - 1 for i in pack.rows)
            assert len(pack.rows) == 1 or (share and pack.length <= most)


def test_packs_of_a_group_are_even():
    # a pack of m responses has n = 100 + 15 m tokens and takes n + n^2 / 64 of work
    prompts, responses = [torch.zeros(100)] * 24, [torch.zeros(16)] * 24
    (packs,) = plan(prompts, responses, 10_000, width=32, share=True)
    work = {m: -(-24 // m) * ((100 + 15 * m) + (100 + 15 * m) ** 2 / 64) for m in range(1, 25)}
    best = min(work, key=work.__getitem__)
    assert 1 < best < 24
    assert [len(pack.rows) for pack in packs] == [best] * (24 // best) + [24 % best] * (24 % best > 0)


def test_a_group_is_one_pack_where_attention_between_responses_costs_nothing():
    prompts, responses = [torch.zeros(100)] * 24, [torch.zeros(16)] * 24
    (packs,) = plan(prompts, responses, 10_000, width=None, share=True)
    assert [len(pack.rows) for pack in packs] == [24]
    (small,), (large,) = plan(prompts, responses, 400, width=None, share=True)
    assert (len(large.rows), len(small.rows)) == (20, 4)
