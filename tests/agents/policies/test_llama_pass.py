"""The written-out training pass against the model's own modules: hidden states and gradients."""

import pytest
import torch

from agents.policies import llama_pass, packing
from agents.policies.language import LanguagePolicy
from agents.policies.tiny import TinySize

SMALL = TinySize(hidden=16, layers=2, heads=4, kv_heads=2, intermediate=24, context=128)
# lengths of responses to each prompt: of one, of several (some of them empty or of a single token), alike and not
GROUPS = {
    "12+34=": [3, 7, 0, 4],
    "a longer prompt than the others": [5],
    "7+8=": [1, 9],
    "4": [1, 1],
    "twelve": [6, 6, 6],
}


@pytest.fixture(scope="module")
def policy():
    return LanguagePolicy.load("tiny", seed=2, size=SMALL)


def rows(policy, *names):
    generator = torch.Generator().manual_seed(5)
    texts = [name for name in names for _ in GROUPS[name]]
    lengths = [length for name in names for length in GROUPS[name]]
    vocabulary = policy.backbone.vocabulary
    return policy.prompt_tokens(texts), [torch.randint(vocabulary, (n,), generator=generator) for n in lengths]


@pytest.mark.parametrize("limit", [16, 60, 4096])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("names", [tuple(GROUPS), ("twelve",), ("4", "7+8="), ("4",)])
def test_equals_the_models_modules(policy, names, share, limit):
    backbone = policy.backbone
    assert llama_pass.suits(backbone)
    prompts, responses = rows(policy, *names)
    params = list(backbone.model.model.parameters())
    generator = torch.Generator().manual_seed(1)
    for packs in packing.plan(prompts, responses, limit, width=16, share=share):
        layout = packing.lay_out(packs, prompts, responses, torch.float32)
        expected = backbone.hidden(layout.tokens, mask=layout.mask, positions=layout.positions)
        expected = expected.flatten(0, 1)[layout.index]
        found = llama_pass.hidden(backbone, llama_pass.lay_out(packs, prompts, responses, backbone))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        weights = torch.randn(expected.shape, generator=generator)
        grads = [torch.autograd.grad((hidden * weights).sum(), params) for hidden in (found, expected)]
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_feeds_no_padding(policy):
    prompts, responses = rows(policy, *GROUPS)
    for packs in packing.plan(prompts, responses, 4096, width=16, share=True):
        layout = llama_pass.lay_out(packs, prompts, responses, policy.backbone)
        assert len(layout.tokens) == sum(pack.length for pack in packs)


def test_pictures_are_embedded_and_get_gradients(policy):
    backbone = policy.backbone
    pictures = torch.randn(3, backbone.width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    first = backbone.first_picture
    prompts = [torch.tensor([5, first, first + 2, 6])] * 2
    responses = [torch.tensor([7, 8, 9]), torch.tensor([10, 11])]
    weights = torch.randn(5, generator=torch.Generator().manual_seed(1))
    backbone.pictures = pictures
    try:
        fast = policy.score(prompts, responses).log_probs.values
        hook = policy.model.model.norm.register_forward_hook(lambda *_: None)
        assert not llama_pass.suits(backbone)  # which sends the pass to the modules
        slow = policy.score(prompts, responses).log_probs.values
        hook.remove()
    finally:
        backbone.pictures = None
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    (ours,), (theirs,) = (torch.autograd.grad(scores @ weights, [pictures]) for scores in (fast, slow))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert ours[1].abs().max() == 0
    assert ours[0].abs().max() > 0


def test_dropout_is_left_to_the_modules():
    backbone = LanguagePolicy.load("tiny", size=SMALL).backbone
    backbone.model.config.attention_dropout = 0.1
    assert llama_pass.suits(backbone)
    backbone.model.train()
    assert not llama_pass.suits(backbone)
