"""The language policy's scores against whole logits, gradients against unshared passes, Fisher against Jacobians."""

from types import SimpleNamespace

import pytest
import torch

from agents.core.buffer import Ragged
from agents.core.spaces import TURN, encode_text
from agents.policies import language, packing
from agents.policies.generation import generate
from agents.policies.language import LanguagePolicy, conversation
from agents.policies.models import load_language_model
from agents.policies.sampling import Sampling
from agents.policies.tiny import TinySize
from agents.trpo import fisher_vector_product
from envs.reasoning import ReasoningEnv

SMALL = TinySize(hidden=16, layers=2, heads=4, kv_heads=2, intermediate=24, context=128)


def policy(**more):
    return LanguagePolicy.load("tiny", seed=2, size=SMALL, **more)


def rows(policy):
    """Prompts, in groups that do not stand together, and responses of all lengths, one of them empty."""
    names = ["12+34=", "7+8=", "12+34=", "a longer prompt than the others", "12+34=", "7+8=", "12+34="]
    generator = torch.Generator().manual_seed(5)
    lengths = [3, 1, 7, 5, 0, 9, 4]
    vocabulary = policy.backbone.vocabulary
    return policy.prompt_tokens(names), [torch.randint(vocabulary, (n,), generator=generator) for n in lengths]


def whole_logits(policy, prompt, response):
    """Logits [n, vocabulary] that predict the response, out of a pass over this row alone."""
    out = policy.model(torch.cat((prompt, response))[None]).logits[0]
    return out[len(prompt) - 1 : len(prompt) + len(response) - 1]


# --- scores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [16, 40, 4096])
def test_scores_equal_those_of_whole_rows(limit):
    p = policy(micro_batch_tokens=limit)
    prompts, responses = rows(p)
    found = p.score(prompts, responses, entropies=True, states=True, temperature=0.7)
    torch.testing.assert_close(p.hidden(prompts, responses).values, found.hidden.values, atol=1e-5, rtol=1e-5)
    assert found.log_probs.lengths.tolist() == [len(r) for r in responses]
    columns = zip(found.log_probs.rows(), found.entropies.rows(), found.hidden.rows(), strict=True)
    for prompt, response, (log_prob, entropy, state) in zip(prompts, responses, columns, strict=True):
        expected = torch.distributions.Categorical(logits=whole_logits(p, prompt, response) / 0.7, validate_args=False)
        torch.testing.assert_close(log_prob, expected.log_prob(response), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(entropy, expected.entropy(), atol=1e-5, rtol=1e-5)
        hidden = p.model.model(torch.cat((prompt, response))[None])[0][0, len(prompt) - 1 : -1]
        torch.testing.assert_close(state, hidden[: len(response)], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.8, 1.0), (1.0, 0.9), (0.8, 0.7)])
def test_scores_are_the_log_probs_of_generation(temperature, top_p):
    p = policy()
    prompts = [prompt for prompt in rows(p)[0] for _ in range(3)]
    sampling = Sampling(15, temperature, top_p)
    written = p.generate(prompts, sampling, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        again = p.response_log_probs(prompts, [r.tokens for r in written], temperature=temperature, top_p=top_p)
    torch.testing.assert_close(again.values, torch.cat([r.log_probs for r in written]), atol=1e-4, rtol=0)


def test_a_token_outside_the_nucleus_keeps_a_finite_log_prob():
    p = policy()
    prompt = p.prompt_tokens(["1+1="])
    least = whole_logits(p, prompt[0], torch.zeros(1, dtype=torch.int64)).argmin(-1)
    score = p.score(prompt, [least], top_p=0.5, entropies=True)
    score.log_probs.values.sum().backward()
    assert score.log_probs.values.isfinite().all()
    assert score.entropies.values.isfinite().all()
    assert all(q.grad is None or q.grad.isfinite().all() for q in p.parameters())


def test_how_matrices_are_stored_changes_no_weight():
    stored, plain = policy().model, load_language_model("tiny", seed=2, size=SMALL)[0]
    assert all(torch.equal(a, b) for a, b in zip(stored.parameters(), plain.parameters(), strict=True))
    assert stored.model.layers[0].mlp.up_proj.weight.stride() == (1, SMALL.intermediate)
    assert stored.lm_head.weight is stored.model.embed_tokens.weight


def test_nothing_to_score():
    p = policy()
    assert p.response_log_probs([], []).rows() == []
    empty = [torch.zeros(0, dtype=torch.int64)]
    assert p.response_log_probs(p.prompt_tokens(["1"]), empty).lengths.tolist() == [0]


# --- shared prompts, memory -------------------------------------------------------------------------------------


def test_sharing_prompts_changes_neither_scores_nor_gradients():
    p = policy()
    prompts, responses = rows(p)
    weights = torch.randn(sum(map(len, responses)), generator=torch.Generator().manual_seed(1))
    found = []
    for share in (True, False):
        p.backbone.takes_masks = share
        assert any(len(pack.rows) > 1 for packs in p._plan(prompts, responses) for pack in packs) == share
        log_probs = p.response_log_probs(prompts, responses).values
        found.append((log_probs.detach(), torch.autograd.grad(log_probs @ weights, list(p.parameters()))))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    for shared, alone in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(shared, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("limit", [12, 60, 4096])
@pytest.mark.parametrize("share", [True, False])
def test_passes_hold_every_row_once_within_the_bound(limit, share):
    p = policy()
    prompts, responses = rows(p)
    passes = packing.plan(prompts, responses, limit, width=16, share=share)
    assert sorted(i for packs in passes for pack in packs for i in pack.rows) == list(range(len(prompts)))
    for packs in passes:
        layout = packing.lay_out(packs, prompts, responses, torch.float32)
        assert layout.tokens.shape == (len(packs), max(pack.length for pack in packs))
        one_row = len(packs) == 1 and len(packs[0].rows) == 1
        assert layout.tokens.numel() <= limit or one_row
        assert len(layout.index) == sum(len(responses[i]) for pack in packs for i in pack.rows)


def test_a_large_model_has_smaller_micro_batches():
    assert policy().micro_batch_tokens == 4096
    config = SimpleNamespace(num_hidden_layers=30, intermediate_size=1536)
    smollm2 = SimpleNamespace(config=config, width=576, vocabulary=49152, dtype=torch.float32)
    assert language.MICRO_BATCH_BYTES // language._token_bytes(smollm2) in range(1024, 1536)


def test_micro_batches_add_up_to_the_whole():
    p = policy(micro_batch_tokens=30)
    prompts, responses = rows(p)
    batches = p.micro_batches(prompts, responses)
    assert len(batches) > 1
    p.response_log_probs(prompts, responses).values.sum().backward()
    whole = [q.grad.clone() for q in p.parameters()]
    p.zero_grad()
    for batch in batches:
        p.response_log_probs([prompts[i] for i in batch], [responses[i] for i in batch]).values.sum().backward()
    for q, expected in zip(p.parameters(), whole, strict=True):
        torch.testing.assert_close(q.grad, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("hooked", [True, False])
def test_only_response_positions_go_through_the_head(monkeypatch, hooked):
    p = policy()
    prompts, responses = rows(p)
    seen = []
    if hooked:  # the model's modules are run
        p.model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0]))
    else:
        scored = language.token_log_probs
        monkeypatch.setattr(
            language,
            "token_log_probs",
            lambda hidden, *args, **more: seen.append(len(hidden)) or scored(hidden, *args, **more),
        )
    p.response_log_probs(prompts, responses)
    assert sum(seen) == sum(map(len, responses))


# --- actor-critic, TRPO -----------------------------------------------------------------------------------------


def test_the_hidden_state_of_a_prompt_is_its_last():
    p = policy()
    prompts, _ = rows(p)
    expected = torch.cat([p.model.model(prompt[None])[0][:, -1] for prompt in prompts])
    torch.testing.assert_close(p.prompt_hidden(prompts), expected, atol=1e-5, rtol=1e-5)


def test_fisher_vector_products_go_through_the_model():
    """Against the Jacobian row by row: F = mean J' (diag p - p p') J, over the parameters of the norms."""
    size = TinySize(hidden=8, layers=1, heads=2, kv_heads=1, intermediate=8, context=64)
    p = LanguagePolicy.load("tiny", seed=0, size=size)
    prompts, responses = (
        p.prompt_tokens(["1+2=", "1+2=", "3"]),
        [torch.tensor([5, 6]), torch.tensor([7]), torch.tensor([8])],
    )
    params = [q for name, q in p.named_parameters() if "norm" in name]
    distribution = p.distribution(prompts, responses)
    torch.testing.assert_close(
        distribution.log_prob(torch.cat(responses)),
        p.response_log_probs(prompts, responses).values,
        atol=1e-5,
        rtol=1e-5,
    )
    n = sum(q.numel() for q in params)
    fisher = torch.zeros(n, n)
    for logits in distribution.logits:
        rows = [torch.cat([g.flatten() for g in torch.autograd.grad(x, params, retain_graph=True)]) for x in logits]
        J, prob = torch.stack(rows), logits.softmax(-1).detach()
        fisher += J.T @ (prob.diag() - prob.outer(prob)) @ J / len(distribution.logits)
    v = torch.randn(n, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(fisher_vector_product(distribution, params)(v), fisher @ v, atol=1e-6, rtol=1e-3)


# --- text -------------------------------------------------------------------------------------------------------


def test_prompts_without_a_chat_template_are_what_they_say():
    p = policy()
    assert not p.chats
    plain, talk = p.prompt_tokens(["2+2=", [{"role": "user", "content": "2+"}, {"role": "user", "content": "2="}]])
    assert torch.equal(plain, talk)
    assert p.decode([plain]) == ["2+2="]
    assert p.prompt_tokens([]) == []


def test_prompts_with_a_chat_template_open_the_reply():
    model, tokenizer = load_language_model("tiny", size=SMALL)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[>]{% endif %}"
    )
    p = LanguagePolicy(model, tokenizer)
    talk = [{"role": "system", "content": "add"}, {"role": "user", "content": "2+2"}]
    assert p.decode(p.prompt_tokens(["2+2", talk])) == ["[user]2+2[>]", "[system]add[user]2+2[>]"]


def test_marked_turns_are_messages():
    """Of a real conversation: what the environment shows is split into what it calls its messages."""
    env = ReasoningEnv("addition", max_turns=3, difficulty=2, split="train")
    first, _ = env.reset(seed=1)
    assert conversation(first) == first
    for response in ("7", "8\n9"):
        observation, *_, info = env.step(response)
        assert conversation(observation) == info["messages"]
    model, tokenizer = load_language_model("tiny", size=SMALL)
    obs = Ragged.of([torch.from_numpy(row.copy()) for row in encode_text([first, observation])], torch.uint8)
    plain = LanguagePolicy(model, tokenizer)
    assert plain.decode(plain.prompts(obs)) == [first, observation.replace(TURN, "")]
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    a, b = plain.decode(plain.prompts(obs))
    assert a == f"[user]{first}"
    assert b.startswith(f"[user]{first}[assistant]7[user]Too ")
    assert "[assistant]8\n9[user]" in b


def test_demonstrations_end_with_the_stop_token_and_decode_without_it():
    p = policy()
    texts = ["46", "", "1\n2é"]
    tokens = p.response_tokens(texts)
    assert all(row[-1] == p.tokenizer.eos_token_id for row in tokens)
    assert p.stop_tokens[0] == p.tokenizer.eos_token_id
    assert p.decode(tokens) == texts


def test_demonstrations_can_be_learned_and_written():
    """The loop in small: cross-entropy on two demonstrations, after which greedy generation writes them."""
    p = policy()
    prompts, responses = p.prompt_tokens(["1+1=", "2+3="]), p.response_tokens(["2", "5"])
    optimizer = torch.optim.Adam(p.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        (-p.response_log_probs(prompts, responses).values.mean()).backward()
        optimizer.step()
    found = p.generate(prompts, Sampling(8, temperature=0), generator=torch.Generator().manual_seed(0))
    assert p.decode([r.tokens for r in found]) == ["2", "5"]
    assert [r.stop_reason for r in found] == ["stop", "stop"]


def test_generate_passes_the_policys_stop_tokens():
    p = policy()
    prompts, _ = rows(p)
    direct = generate(
        p.backbone, prompts, Sampling(30), generator=torch.Generator().manual_seed(1), stop_tokens=p.stop_tokens
    )
    found = p.generate(prompts, Sampling(30), generator=torch.Generator().manual_seed(1))
    assert [r.tokens.tolist() for r in found] == [r.tokens.tolist() for r in direct]
