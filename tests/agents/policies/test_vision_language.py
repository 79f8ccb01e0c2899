"""The language policy with eyes: against transformers' own passes over pictures, and the slow path of generation."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from transformers import (
    AutoProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from agents.core.buffer import Batch, Ragged
from agents.core.spaces import observation_tensors
from agents.policies import PolicyConfig, make_policy
from agents.policies.generation import generate_slowly
from agents.policies.kv_cache import SlotCache, make_cache
from agents.policies.llama_cache import LlamaCache
from agents.policies.models import load_language_model
from agents.policies.sampling import Sampling
from agents.policies.text import TextPolicy
from agents.policies.tiny import ACROSS, ACTION_WORDS, DOWN, TinySize, character_tokenizer
from agents.policies.vision_language import SCREEN_PROMPT, VisionLanguagePolicy
from agents.trpo import fisher_vector_product

SPACE = spaces.Dict({"screenshot": spaces.Box(0, 255, (40, 30, 3), np.uint8), "instruction": spaces.Text(40)})
TEXT = spaces.Text(100)
SMALL = TinySize(hidden=16, layers=2, heads=4, kv_heads=2, intermediate=24, context=128)


def tiny(**more):
    torch.manual_seed(0)
    policy = VisionLanguagePolicy.load("tiny", SPACE, seed=2, size=SMALL, **more)
    return spread(policy)


def spread(policy):
    """Weights so large that predictions are far from uniform, pictures matter, and no token repeats itself."""
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(4.0 if p.dim() > 1 else 1.0)
    head = policy.model.lm_head
    head.weight = torch.nn.Parameter(torch.randn(head.weight.shape, generator=rng(6)) * 0.5)
    return policy


def observations(pictures=(0, 1, 0, 0, 1, 2, 0), texts="aababba"):
    """The rows' pictures, which come again with the same texts and with others, and instructions."""
    rng = np.random.default_rng(3)
    shots = rng.integers(0, 256, (3, 40, 30, 3), np.uint8)
    batch = {"screenshot": shots[list(pictures)], "instruction": tuple(f"click {name}" for name in texts)}
    return observation_tensors(SPACE, batch, torch.device("cpu"))


def responses(policy, lengths=(3, 1, 7, 5, 0, 9, 4)):
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(policy.backbone.vocabulary, (n,), generator=generator) for n in lengths]


def own_logits(policy, obs, row, response):
    """Logits [n, vocabulary] by the model's own forward pass over the processor's inputs and the response."""
    text = "<image>" + bytes(obs["instruction"].rows()[row].numpy()).decode() + "\n"
    inputs = policy.processor(text=[text], images=[obs["screenshot"][row].numpy()], return_tensors="pt")
    inputs["input_ids"] = torch.cat((inputs["input_ids"], response[None]), 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    start = inputs["input_ids"].shape[1] - len(response) - 1
    return policy.model(**inputs).logits[0, start : start + len(response)]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# --- prompts ----------------------------------------------------------------------------------------------------


def test_a_prompt_is_what_the_processor_writes_with_its_picture_numbered():
    policy, obs = tiny(), observations()
    assert policy.length == 3 * 2  # of 48 x 32 pixels
    prompts = policy.prompts(obs)
    for row, (prompt, number) in enumerate(zip(prompts, [0, 1, 0, 0, 1, 2, 0], strict=True)):
        text = "<image>" + bytes(obs["instruction"].rows()[row].numpy()).decode() + "\n"
        ids = policy.processor(text=[text], images=[obs["screenshot"][row].numpy()])["input_ids"][0]
        seen = prompt >= policy.backbone.first_picture
        assert torch.where(seen, policy.image_token, prompt).tolist() == list(ids)
        first = policy.backbone.first_picture + 6 * number
        assert prompt[seen].tolist() == list(range(first, first + 6))
    equal = [[torch.equal(a, b) for b in prompts] for a in prompts]
    assert equal[0] == [True, False, False, True, False, False, True]


def test_an_image_token_in_an_instruction_is_no_picture():
    policy, obs = tiny(), observations((0,), "a")
    told = Ragged.of([torch.frombuffer(bytearray(b"click <image>a"), dtype=torch.uint8)], torch.uint8)
    assert torch.equal(policy.prompts({**obs, "instruction": told})[0], policy.prompts(obs)[0])


def test_chat_models_are_told_the_actions():
    policy = tiny()
    policy.processor.chat_template = (
        "{% for m in messages %}[{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}]{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    prompt = policy.prompts(observations((0,), "a"))[0]
    words = prompt[prompt < policy.backbone.first_picture]
    assert policy.decode([words]) == [f"[{SCREEN_PROMPT}click a]>"]


def test_each_distinct_picture_is_encoded_once(monkeypatch):
    policy, seen = tiny(), []
    encode = policy._encode_pictures
    monkeypatch.setattr(policy, "_encode_pictures", lambda pictures: seen.append(len(pictures)) or encode(pictures))
    with policy.reading(observations()) as prompts:
        policy.score(prompts, responses(policy))
    assert seen == [3]
    assert policy.backbone.pictures is None
    policy.micro_batch_tokens = 13  # two pictures of six
    with policy.reading(observations()):
        assert policy.backbone.pictures.shape == (18, 16)
    assert seen == [3, 2, 1]


# --- scores, generation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [30, 4096])
def test_scores_are_those_of_the_models_own_pass(limit):
    policy, obs = tiny(micro_batch_tokens=limit), observations()
    written = responses(policy)
    with policy.reading(obs) as prompts:
        found = policy.score(prompts, written, entropies=True).log_probs.rows()
    spreads = []
    for row, response in enumerate(written):
        logits = own_logits(policy, obs, row, response)
        expected = logits.log_softmax(-1).gather(1, response[:, None]).squeeze(1)
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)
        spreads.append(expected)
    same = own_logits(policy, obs, 1, written[0]) - own_logits(policy, obs, 0, written[0])
    assert float(same.detach().abs().max()) > 0.1  # the picture matters


@pytest.mark.parametrize("share", [True, False])
def test_gradients_go_through_the_eyes(share):
    policy, obs = tiny(micro_batch_tokens=60), observations()
    policy.backbone.takes_masks = share
    written = responses(policy)
    with policy.reading(obs) as prompts:
        total = policy.score(prompts, written).log_probs.values.sum()
    params = [p for p in policy.parameters() if p.requires_grad]
    found = torch.autograd.grad(total, params)
    logs = [
        own_logits(policy, obs, row, r).log_softmax(-1).gather(1, r[:, None]).sum() for row, r in enumerate(written)
    ]
    expected = torch.autograd.grad(sum(logs), params)
    names = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert any("vision_tower" in name for name in names)
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g, e, atol=1e-3 * float(e.abs().max()) + 5e-5, rtol=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_fast_equals_slow(temperature):
    policy, obs = tiny(), observations()
    assert isinstance(make_cache(policy.backbone, 4), LlamaCache)
    sampling = Sampling(12, temperature)
    with torch.no_grad(), policy.reading(obs) as prompts:
        fast = policy.generate(prompts, sampling, generator=rng())
        slow = generate_slowly(policy.backbone, prompts, sampling, generator=rng(), stop_tokens=policy.stop_tokens)
        again = policy.score(prompts, [r.tokens for r in fast]).log_probs.rows()
    assert [r.tokens.tolist() for r in fast] == [r.tokens.tolist() for r in slow]
    for a, b, c in zip(fast, slow, again, strict=True):
        torch.testing.assert_close(a.log_probs, b.log_probs, atol=1e-4, rtol=0)
        if temperature:
            torch.testing.assert_close(a.log_probs, c, atol=1e-4, rtol=0)
    assert len({tuple(r.tokens.tolist()) for r in fast}) > 2


def test_greedy_equals_transformers():
    policy, obs = tiny(), observations((2,), "b")
    with torch.no_grad(), policy.reading(obs) as prompts:
        (ours,) = policy.generate(prompts, Sampling(10, temperature=0), generator=rng())
    inputs = policy.processor(text=["<image>click b\n"], images=[obs["screenshot"][0].numpy()], return_tensors="pt")
    theirs = policy.model.generate(**inputs, do_sample=False, max_new_tokens=10, eos_token_id=1, pad_token_id=0)
    assert ours.tokens.tolist() == theirs[0, inputs["input_ids"].shape[1] :].tolist()


def test_a_prompt_is_prefilled_once_for_its_group(monkeypatch):
    policy, prefilled = tiny(), []
    hidden = policy.backbone.hidden
    monkeypatch.setattr(
        policy.backbone, "hidden", lambda tokens, **more: prefilled.append(len(tokens)) or hidden(tokens, **more)
    )
    with torch.no_grad(), policy.reading(observations((0, 1) * 8, "ab" * 8)) as prompts:
        policy.generate(prompts, Sampling(3), generator=rng())
    assert prefilled[0] == 2


# --- as a policy ------------------------------------------------------------------------------------------------


def test_parked_responses_go_on_before_pictures_of_other_numbers():
    """A parked response's picture is the third at first and the first later; its tokens are as alone."""
    sampling = Sampling(9)
    whole = TextPolicy(tiny(), sampling).act(observations((0, 1, 2), "aab"), rng())
    parking = TextPolicy(tiny(), sampling, token_budget=3)
    parking.act(observations((0, 1, 2), "aab"), rng())
    assert set(parking.parked) == {0, 1, 2}
    parking.token_budget = 0
    again = parking.act(observations((2, 1, 2), "bab"), rng(1), episode_start=np.array([True, False, False]))
    for i in (1, 2):
        assert again["action"].rows()[i].tolist() == whole["action"].rows()[i].tolist()
        torch.testing.assert_close(again["log_prob"].rows()[i], whole["log_prob"].rows()[i], atol=1e-4, rtol=0)


def test_micro_batches_count_what_a_picture_takes():
    policy = TextPolicy(tiny(micro_batch_tokens=40), Sampling(9))
    obs, written = observations(), responses(policy.language)
    steps = Batch(action=Ragged.of(written, torch.int64)).with_obs(obs)
    parts = policy.micro_batches(steps, torch.arange(7))
    assert sorted(torch.cat(parts).tolist()) == list(range(7))
    words = [prompt[prompt < policy.language.backbone.first_picture] for prompt in policy.language.prompts(obs)]
    assert len(parts) > len(policy.language.micro_batches(words, written))
    whole = policy.decisions(steps)
    rows = [policy.decisions(steps.take(part)).log_prob for part in parts]
    by_step = whole.log_prob.split([len(r) for r in written])
    expected = [torch.cat([by_step[i] for i in part]) for part in parts]
    for found, e in zip(rows, expected, strict=True):
        torch.testing.assert_close(found, e, atol=1e-4, rtol=1e-4)


def test_fisher_vector_products_go_through_the_eyes():
    """Against the Jacobian row by row: F = J' (diag p - p p') J, over norms of the tower."""
    policy = TextPolicy(tiny(), Sampling(9))
    steps = Batch(action=Ragged.of([torch.tensor([7])], torch.int64)).with_obs(observations((1,), "b"))
    params = [q for name, q in policy.named_parameters() if "vision_tower.norm" in name]
    distribution = policy.distribution(steps)
    n = sum(q.numel() for q in params)
    fisher = torch.zeros(n, n)
    for logits in distribution.logits:
        rows = [torch.cat([g.flatten() for g in torch.autograd.grad(x, params, retain_graph=True)]) for x in logits]
        J, prob = torch.stack(rows), logits.softmax(-1).detach()
        fisher += J.T @ (prob.diag() - prob.outer(prob)) @ J
    v = torch.randn(n, generator=rng(3))
    expected = fisher @ v
    found = fisher_vector_product(distribution, params)(v)
    torch.testing.assert_close(found, expected, atol=1e-3 * float(expected.abs().max()), rtol=1e-3)


# --- models by path ---------------------------------------------------------------------------------------------


def llava(folder, text_config):
    """A random LLaVA with a CLIP tower of square pictures, saved with its processor."""
    tokenizer = character_tokenizer(("<image>",))
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(pixels, tokenizer, patch_size=8, vision_feature_select_strategy="full")
    config = LlavaConfig(
        text_config=text_config(vocab_size=len(tokenizer)),
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(4)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def qwen(**more):
    return Qwen2Config(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        eos_token_id=1, **more,
    )  # fmt: skip


def test_a_model_of_transformers_by_path(tmp_path):
    policy = spread(VisionLanguagePolicy.load(llava(tmp_path, qwen), SPACE))
    assert isinstance(make_cache(policy.backbone, 4), SlotCache)
    obs = observations((0, 1, 0), "aab")
    with torch.no_grad(), policy.reading(obs) as prompts:
        fast = policy.generate(prompts, Sampling(8), generator=rng())
        slow = generate_slowly(policy.backbone, prompts, Sampling(8), generator=rng(), stop_tokens=policy.stop_tokens)
    assert [r.tokens.tolist() for r in fast] == [r.tokens.tolist() for r in slow]
    for row, response in enumerate(fast):
        expected = own_logits(policy, obs, row, response.tokens).log_softmax(-1)
        expected = expected.gather(1, response.tokens[:, None]).squeeze(1)
        torch.testing.assert_close(response.log_probs, expected, atol=1e-4, rtol=0)


def test_pictures_in_tiles_by_path(tmp_path):
    """Idefics3, as SmolVLM: a picture is cut into tiles, between tokens that say which tile follows."""
    words = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = character_tokenizer((*words, *tiles))
    tokenizer.split_special_tokens = False  # its processor makes special tokens of them
    pixels = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "num_attention_heads": 4, "eos_token_id": 1}
    narrow = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = Idefics3Config(
        text_config={**text, **narrow, "num_key_value_heads": 2, "pad_token_id": 0},
        vision_config={**narrow, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(4)
    Idefics3ForConditionalGeneration(config).save_pretrained(tmp_path)
    Idefics3Processor(pixels, tokenizer, image_seq_len=4).save_pretrained(tmp_path)
    policy = spread(VisionLanguagePolicy.load(str(tmp_path), SPACE))
    assert policy.length == 5 * 4  # four tiles, and the whole
    with torch.no_grad(), policy.reading(observations((0, 1, 0), "aab")) as prompts:
        words = policy.tokenizer.decode(prompts[0][prompts[0] < policy.backbone.first_picture])
        assert [words.count(tile) for tile in (*tiles, "<global-img>", "click a")] == [1] * 6
        fast = policy.generate(prompts, Sampling(8), generator=rng())
        slow = generate_slowly(policy.backbone, prompts, Sampling(8), generator=rng(), stop_tokens=policy.stop_tokens)
    assert [r.tokens.tolist() for r in fast] == [r.tokens.tolist() for r in slow]


def test_weights_behind_the_layer_looked_at_are_left_alone(tmp_path):
    policy = VisionLanguagePolicy.load(llava(tmp_path, qwen), SPACE)
    idle = {
        name.split("vision_tower.")[1].rsplit(".", 1)[0] for name, p in policy.named_parameters() if not p.requires_grad
    }
    assert {name.split(".")[0] for name in idle} == {"encoder", "post_layernorm", "head"}
    assert all(name.startswith("encoder.layers.2.") for name in idle if name.startswith("encoder"))


def test_the_tiny_models_processor_is_transformers_own(tmp_path):
    policy = tiny()
    policy.processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    text = "Thought: Click.\nAction: click(point='<point>12 345</point>')"
    ids = again.tokenizer(text)["input_ids"]
    assert ids == policy.tokenizer(text)["input_ids"]
    assert len(ids) == len("Click.") + 7
    assert policy.decode([torch.tensor(ids)]) == [text]
    assert policy.decode(policy.response_tokens(ACTION_WORDS)) == list(ACTION_WORDS)


def test_what_the_tiny_model_sees_somewhere_is_near_the_words_for_it():
    policy = VisionLanguagePolicy.load("tiny", SPACE)
    eyes, project = policy.model.model.vision_tower, policy.model.model.multi_modal_projector
    words = policy.model.get_input_embeddings().weight
    with torch.no_grad():
        places = project(eyes.places)
    # 40 x 30 pixels lie in the middle of 48 x 32, in patches of 16
    for names, side, edge, count, axis in ((DOWN, 40, 4, 3, 0), (ACROSS, 30, 1, 2, 1)):
        said = words[policy.tokenizer.convert_tokens_to_ids(list(names))]
        pixel = edge + side * (places @ said.T).argmax(-1) / 1000
        middle = 16 * torch.arange(count) + 8
        expected = middle.repeat_interleave(2) if axis == 0 else middle.repeat(3)
        torch.testing.assert_close(pixel, expected.clamp(edge, edge + side).float(), atol=1.0, rtol=0)


def test_attention_passes_on_what_it_reads():
    size = TinySize(hidden=16, layers=1, heads=4, kv_heads=4, intermediate=24, context=128)
    policy = VisionLanguagePolicy.load("tiny", SPACE, size=size)
    attention = policy.model.model.language_model.layers[0].self_attn
    torch.testing.assert_close(attention.o_proj.weight @ attention.v_proj.weight, torch.eye(16), atol=1e-5, rtol=0)


def test_batch_statistics_are_learned_from_demonstrations_alone():
    policy = TextPolicy(VisionLanguagePolicy.load("tiny", SPACE, seed=2, size=SMALL), Sampling(9))
    statistics = policy.language.model.model.vision_tower.reader.letters_norm
    obs, written = observations(), responses(policy.language)
    steps = Batch(action=Ragged.of(written, torch.int64)).with_obs(obs)
    before = statistics.running_mean.clone()
    policy.decisions(steps).log_prob.sum().backward()
    policy.act(obs, rng())
    assert torch.equal(statistics.running_mean, before)
    policy.imitation_losses(steps)
    assert not torch.equal(statistics.running_mean, before)
    assert not any(module.training for module in policy.language.model.modules())


# --- refusals ---------------------------------------------------------------------------------------------------


def test_a_model_without_eyes_is_refused(tmp_path):
    for name in ("smollm2", "model.gguf"):
        with pytest.raises(ValueError, match=f"the model {name} sees no pictures; screens take tiny"):
            make_policy(SPACE, TEXT, PolicyConfig(model=name))
    model, tokenizer = load_language_model("tiny", size=SMALL)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="sees no pictures"):
        make_policy(SPACE, TEXT, PolicyConfig(model=str(tmp_path)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"instruction": spaces.Text(9)}),
        spaces.Dict({"screenshot": SPACE["screenshot"]}),
        spaces.Dict({**SPACE.spaces, "pointer": spaces.Box(0, 1, (2,))}),
        spaces.Dict({"screenshot": spaces.Box(0, 255, (40, 30, 1), np.uint8), "instruction": spaces.Text(9)}),
        spaces.Box(0, 1, (3,)),
    ],
    ids=["no image", "no text", "more", "grey", "vector"],
)
def test_observations_that_are_no_screen_are_refused(space):
    with pytest.raises(ValueError, match=r"one screenshot .* and one instruction"):
        make_policy(space, TEXT, PolicyConfig())


def test_a_model_that_does_more_with_a_picture_is_refused(monkeypatch):
    forward = LlavaForConditionalGeneration.forward

    def whole(self, input_ids=None, pixel_values=None, **more):
        out = forward(self, input_ids=input_ids, pixel_values=pixel_values, **more)
        if pixel_values is not None:
            out.logits = out.logits.flip(1)
        return out

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", whole)
    with pytest.raises(
        ValueError, match="LlavaForConditionalGeneration takes pictures in otherwise than as embeddings"
    ):
        tiny()
