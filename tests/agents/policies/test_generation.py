"""Generation against its definition (one row at a time, no cache), transformers' greedy search, and closed forms."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from agents.core import checkpoint
from agents.policies import generation
from agents.policies.backbone import Backbone
from agents.policies.generation import Response, generate, generate_slowly
from agents.policies.kv_cache import SharedCache, SlotCache, make_cache
from agents.policies.llama_cache import LlamaCache
from agents.policies.models import Lora, load_language_model
from agents.policies.sampling import RepeatDetector, Sampling, draw, nucleus_floor, uniforms

VOCABULARY = 300  # more than one block of the sampler's


def llama(**more):
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,  # far from uniform predictions
        **more,
    )
    return LlamaForCausalLM(config)


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.4)
    )


def mamba():
    return MambaForCausalLM(
        MambaConfig(
            vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2, expand=2, time_step_rank=4
        )
    )


def mistral():
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.4,
    )
    return MistralForCausalLM(config)


def tiny():
    return load_language_model("tiny", seed=3)[0]


def biased():
    model = llama(attention_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model


MODELS = {"tiny": tiny, "llama": llama, "biased": biased, "gpt2": gpt2, "mamba": mamba, "mistral": mistral}
PROMPTS = [torch.tensor(row) for row in ([5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 2], [5, 6, 7, 8], [11], [9, 1, 2, 3])]
STOP = tuple(range(2, 120, 5))  # so many that responses end at all lengths


def backbone_of(name):
    torch.manual_seed(1)
    return Backbone(MODELS[name]())


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def requests(k):
    return [prompt for prompt in PROMPTS for _ in range(k)]


def assert_equal(left, right, tolerance=1e-4):
    assert [r.tokens.tolist() for r in left] == [r.tokens.tolist() for r in right]
    assert [r.stop_reason for r in left] == [r.stop_reason for r in right]
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a.log_probs, b.log_probs, atol=tolerance, rtol=0)


# --- fast path = slow path --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_fast_equals_slow(name, temperature, top_p):
    backbone = backbone_of(name)
    sampling = Sampling(12, temperature, top_p)
    fast = generate(backbone, requests(4), sampling, generator=rng(), stop_tokens=STOP)
    slow = generate_slowly(backbone, requests(4), sampling, generator=rng(), stop_tokens=STOP)
    assert_equal(fast, slow)
    lengths = {len(response.tokens) for response in fast}
    assert len(lengths) > 2  # rows have left the batch at different times
    assert {response.stop_reason for response in fast} == {"stop", "length"}


@pytest.mark.parametrize("name", ["llama", "biased", "mamba"])
def test_rows_that_wait_for_a_place_become_what_they_would_have_been(name, monkeypatch):
    backbone = backbone_of(name)
    slow = generate_slowly(backbone, requests(6), Sampling(12), generator=rng(), stop_tokens=STOP)
    monkeypatch.setattr(generation, "CACHE_BYTES", 1)  # the least: 8 rows at a time
    fast = generate(backbone, requests(6), Sampling(12), generator=rng(), stop_tokens=STOP)
    assert_equal(fast, slow)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tiny", LlamaCache),
        ("llama", LlamaCache),
        ("biased", SlotCache),
        ("gpt2", SlotCache),
        ("mamba", SharedCache),
        ("mistral", SharedCache),
    ],
)
def test_the_cache_fits_the_model(name, kind):
    assert isinstance(make_cache(backbone_of(name), 4), kind)


def test_adapters_and_hooks_are_not_bypassed():
    adapted = load_language_model("tiny", lora=Lora(rank=2))[0]
    assert isinstance(make_cache(Backbone(adapted), 4), SlotCache)
    hooked = backbone_of("llama")
    hooked.model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert isinstance(make_cache(hooked, 4), SlotCache)


def test_one_row_among_groups_of_many():
    backbone = backbone_of("llama")
    uneven = [PROMPTS[0]] * 9 + [PROMPTS[1]] + [PROMPTS[3]] * 2 + [PROMPTS[2]]
    fast = generate(backbone, uneven, Sampling(12), generator=rng(), stop_tokens=STOP)
    assert_equal(fast, generate_slowly(backbone, uneven, Sampling(12), generator=rng(), stop_tokens=STOP))


@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_scaled_rotary_embeddings(rope):
    torch.manual_seed(1)
    backbone = Backbone(llama(rope_parameters={"rope_theta": 10000.0, **rope}))
    fast = generate(backbone, requests(2), Sampling(12), generator=rng(), stop_tokens=STOP)
    assert_equal(fast, generate_slowly(backbone, requests(2), Sampling(12), generator=rng(), stop_tokens=STOP))


@pytest.mark.parametrize("name", ["tiny", "llama", "gpt2"])
def test_greedy_equals_transformers(name):
    backbone = backbone_of(name)
    backbone.model.eval()  # transformers leaves dropout on
    ours = generate(backbone, PROMPTS, Sampling(10, temperature=0), generator=rng(), stop_tokens=STOP)
    for prompt, response in zip(PROMPTS, ours, strict=True):
        theirs = backbone.model.generate(
            prompt[None],
            attention_mask=torch.ones_like(prompt)[None],
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=list(STOP),
            pad_token_id=0,
        )
        assert response.tokens.tolist() == theirs[0, len(prompt) :].tolist()
        assert not response.log_probs.any()


@pytest.mark.parametrize("name", ["llama", "biased"])
def test_prompts_are_prefilled_once_and_finished_rows_not_computed(name, monkeypatch):
    backbone = backbone_of(name)
    prefilled, kind, rows = [], type(make_cache(backbone, 4)), []
    hidden, step = backbone.hidden, kind.step

    def recorded(tokens, **more):
        if tokens.shape[1] > 1:
            prefilled.append(tuple(tokens.shape))
        return hidden(tokens, **more)

    monkeypatch.setattr(backbone, "hidden", recorded)
    monkeypatch.setattr(kind, "step", lambda self, tokens: (rows.append(len(tokens)), step(self, tokens))[1])
    found = generate(backbone, requests(5), Sampling(12), generator=rng(), stop_tokens=STOP)
    assert prefilled == [(5, 8)]
    assert sum(rows) == sum(len(response.tokens) - 1 for response in found)  # the first comes from the prefill


def test_training_mode_and_global_randomness_stay_as_they_were():
    backbone = backbone_of("llama")
    backbone.model.train()
    state = torch.get_rng_state()
    generate(backbone, PROMPTS, Sampling(2), generator=rng(), stop_tokens=STOP)
    assert backbone.model.training
    assert torch.equal(state, torch.get_rng_state())


# --- budget -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "biased", "mamba"])
@pytest.mark.parametrize("budget", [0, 1, 23, 70])
def test_parked_responses_become_what_they_would_have_been(name, budget, tmp_path):
    backbone = backbone_of(name)
    whole = generate(backbone, requests(4), Sampling(12), generator=rng(), stop_tokens=STOP)
    parked = generate(backbone, requests(4), Sampling(12), generator=rng(), stop_tokens=STOP, version=1, budget=budget)
    written = sum(len(r.tokens) for r in parked)
    assert budget <= written < budget + max(len(parked), 1)
    for a, b in zip(parked, whole, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()[: len(a.tokens)]
        assert a.finished == (a.stop_reason != "budget")
    path = checkpoint.save(tmp_path / "parked", {"parked": [r.state_dict() for r in parked if not r.finished]})
    stored = [Response.from_state(state) for state in checkpoint.load(path)["parked"]]
    rest = generate(backbone, stored, Sampling(12), generator=rng(9), stop_tokens=STOP, version=2)
    done = iter(rest)
    final = [r if r.finished else next(done) for r in parked]
    assert_equal(final, whole)
    for before, after in zip(parked, final, strict=True):
        count = len(before.tokens)
        assert torch.equal(before.log_probs, after.log_probs[:count])
        assert after.versions.tolist() == [1] * count + [2] * (len(after.tokens) - count)


def test_newer_weights_write_the_rest_of_a_parked_response():
    backbone = backbone_of("llama")
    parked = generate(backbone, PROMPTS, Sampling(12), generator=rng(), stop_tokens=(), budget=10)
    assert all(len(r.tokens) == 2 for r in parked)
    old = [(r.tokens.clone(), r.log_probs.clone()) for r in parked]
    with torch.no_grad():
        for p in backbone.model.parameters():
            p.mul_(0.5)
    # new prompts beside parked responses
    found = generate(backbone, [*parked, PROMPTS[0]], Sampling(12), generator=rng(1), stop_tokens=(), version=1)
    slow = generate_slowly(backbone, [*parked, PROMPTS[0]], Sampling(12), generator=rng(1), stop_tokens=(), version=1)
    assert_equal(found, slow)
    for (tokens, log_probs), r in zip(old, found, strict=False):
        assert torch.equal(r.tokens[:2], tokens)
        assert torch.equal(r.log_probs[:2], log_probs)
        assert r.versions.tolist() == [0, 0] + [1] * 10


# --- stop reasons, errors ---------------------------------------------------------------------------------------


def test_stop_tokens_belong_to_the_response():
    backbone = backbone_of("llama")
    for r in generate(backbone, requests(3), Sampling(40), generator=rng(), stop_tokens=STOP):
        ends = [token in STOP for token in r.tokens.tolist()]
        assert not any(ends[:-1])
        assert ends[-1] == (r.stop_reason == "stop")


def test_repeats_stop_a_response():
    backbone = backbone_of("llama")
    sampling = Sampling(60, temperature=0.3, repeat_ngram=2, repeat_times=3)
    found = generate(backbone, requests(4), sampling, generator=rng(), stop_tokens=())
    assert {r.stop_reason for r in found} == {"repeat", "length"}
    for r in found:
        tokens = r.tokens.tolist()
        pairs = list(pairwise(tokens))
        repeats = [pairs[: i + 1].count(pair) >= 3 for i, pair in enumerate(pairs)]
        assert not any(repeats[:-1])
        assert repeats[-1] == (r.stop_reason == "repeat")


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 4), st.integers(2, 4), st.integers(0, 30))
def test_repeat_detector_counts_ngrams(tokens, ngram, times, cut):
    detector = RepeatDetector(ngram, times, tokens[:cut])
    for i, token in enumerate(tokens[cut:], len(tokens[:cut]) + 1):
        grams = [tokens[j : j + ngram] for j in range(i - ngram + 1)]
        assert detector.push(token) == (bool(grams) and grams.count(grams[-1]) >= times)


def test_the_context_ends_a_response():
    backbone = backbone_of("gpt2")  # 64 positions
    (found,) = generate(backbone, [torch.arange(60)], Sampling(50), generator=rng(), stop_tokens=())
    assert (len(found.tokens), found.stop_reason) == (4, "length")
    with pytest.raises(ValueError, match="context is 64"):
        generate(backbone, [torch.zeros(64, dtype=torch.int64)], Sampling(5), generator=rng(), stop_tokens=())


def test_requests_that_cannot_be_answered():
    backbone = backbone_of("llama")
    assert generate(backbone, [], Sampling(3), generator=rng(), stop_tokens=()) == []
    with pytest.raises(ValueError, match="empty prompt"):
        generate(backbone, [torch.zeros(0, dtype=torch.int64)], Sampling(3), generator=rng(), stop_tokens=())
    done = generate(backbone, PROMPTS[:1], Sampling(3), generator=rng(), stop_tokens=())
    with pytest.raises(ValueError, match=r"finished response \(length\)"):
        generate(backbone, done, Sampling(3), generator=rng(), stop_tokens=())


@pytest.mark.parametrize(
    "field", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"repeat_times": 1}]
)
def test_impossible_sampling_is_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        Sampling(**field)


# --- sampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 255, 256, 257, 700])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.3, 0.8)])
def test_equally_spaced_numbers_give_every_token_its_share(size, temperature, top_p):
    logits = torch.randn(size, generator=rng(2)) * 2
    count = 4000
    spaced = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens, log_probs = draw(logits.repeat(count, 1), Sampling(1, temperature, top_p), spaced)
    p = (logits.double() / temperature).softmax(-1)
    if top_p < 1:
        order = p.argsort(descending=True)
        last = int((p[order].cumsum(0) < top_p).sum())
        keep = torch.zeros(size, dtype=torch.bool)
        keep[order[: last + 1]] = True
        p = torch.where(keep, p, 0.0)
        p /= p.sum()
    share = torch.bincount(tokens, minlength=size) / count
    assert (
        share - p
    ).abs().max() <= 1.5 / count  # an interval of the line holds its length in points, give or take one
    torch.testing.assert_close(log_probs, p.log()[tokens].float(), atol=1e-5, rtol=0)


def test_tokens_without_probability_are_never_drawn():
    logits = torch.full((6, 600), -torch.inf)
    logits[:, [3, 400]] = 0.0
    ends = torch.tensor([0.0, 0.5 - 2**-54, 0.5, 1 - 2**-53, 0.25, 0.75], dtype=torch.float64)
    tokens, log_probs = draw(logits, Sampling(1), ends)
    assert tokens.tolist() == [3, 3, 400, 400, 3, 400]
    torch.testing.assert_close(log_probs, torch.full((6,), -math.log(2)))


def test_the_nucleus_of_a_flat_distribution_is_found_too():
    weights = torch.rand(3, 5000, generator=rng(4)) + 0.5
    floor = nucleus_floor(weights, 0.9)
    kept = torch.where(weights >= floor, weights, 0.0)
    total = weights.sum(-1, dtype=torch.float64)
    assert (kept.sum(-1, dtype=torch.float64) >= 0.9 * total).all()
    without_last = kept.sum(-1, dtype=torch.float64) - floor.squeeze(1)
    assert (without_last < 0.9 * total).all()


def test_uniform_numbers_are_uniform_and_belong_to_seed_and_position():
    seeds, positions = np.meshgrid(np.arange(100) * 7919, np.arange(200))
    u = uniforms(seeds.ravel(), positions.ravel())
    assert u.min() >= 0
    assert u.max() < 1
    assert len(np.unique(u)) == u.size
    from scipy import stats

    assert stats.kstest(u, "uniform").pvalue > 0.01
    grid = u.reshape(seeds.shape)
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.03  # neighbours in position
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.03  # neighbours in seed
    np.testing.assert_array_equal(u[5:9], uniforms(seeds.ravel()[5:9], positions.ravel()[5:9]))
