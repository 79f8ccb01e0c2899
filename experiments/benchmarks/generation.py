"""Generation on SmolLM2-135M against transformers' `generate`: the same prompts, 16 responses each, at temperature 1.

Three workloads of four prompts: word problems (125-145 tokens with the chat template, as in `kimi`), sums ("11+17=",
36 tokens), and the word problems again with responses of different lengths. In the first two every response has its
full 32 tokens. In the third a response ends with its first sentence or line, or at 64 tokens: both sides get the same
stop tokens (every token of the vocabulary whose text ends a sentence or a line), and since both draw from the same
distribution, their responses have the same mix of lengths; what came out is in the notes. `generate` goes on with a
finished row, padding it, until the last one ends.

A rate counts the tokens of responses, stop tokens included and padding not. Both sides sample from the whole
distribution (top-k, which `generate` would apply by default, is off), and generate once off the clock. Both compute in
float32, and in a second pair of sides with bfloat16: `generate` on weights in bfloat16, ours by torch's switch for
float32 products ("medium"), which keeps the weights that are trained.
"""

from __future__ import annotations

import time
from typing import Any

from experiments.benchmarks import Benchmark, Measurement, Options, Ratio, Side, usable_cores
from experiments.benchmarks.kimi import GROUP_SIZE, GROUPS, MODEL, REQUIRES, questions

WORKLOADS = {  # environment, longest response, whether responses may end earlier
    "word problems": ("reasoning_gym/gsm_symbolic-v0", 32, False),
    "sums": ("reasoning/addition-v0", 32, False),
    "different lengths": ("reasoning_gym/gsm_symbolic-v0", 64, True),
}


def sentence_ends(tokenizer: Any) -> list[int]:
    """Tokens that end a sentence or a line, and the tokenizer's own stop token."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    ends = {i for i, text in enumerate(texts) if text.rstrip(" ").endswith((".", "!", "?", "\n"))}
    return sorted(ends | {tokenizer.eos_token_id})


def ours(env: str, max_tokens: int, early: bool, rounds: int, bf16: bool = False) -> Measurement:
    import torch

    from agents.policies.language import LanguagePolicy
    from agents.policies.sampling import Sampling

    torch.set_float32_matmul_precision("medium" if bf16 else "highest")
    policy = LanguagePolicy.load(MODEL)
    policy.stop_tokens = sentence_ends(policy.tokenizer) if early else []
    prompts = policy.prompt_tokens(questions(env))
    requests = [prompt for prompt in prompts for _ in range(GROUP_SIZE)]
    sampling, generator = Sampling(max_tokens), torch.Generator().manual_seed(0)
    policy.generate(requests, Sampling(2), generator=generator)
    lengths: list[int] = []
    started, worked = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        lengths += [len(r.tokens) for r in policy.generate(requests, sampling, generator=generator)]
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    settings = _settings(policy.model, policy.stop_tokens, torch.get_num_threads(), rounds)
    settings |= {"sampling": str(sampling), "attention": policy.model.config._attn_implementation}
    return Measurement(sum(lengths) / seconds, settings, _notes(prompts, lengths, seconds / rounds, worked / rounds))


def peer_generate(env: str, max_tokens: int, early: bool, rounds: int, bf16: bool = False) -> Measurement:
    import torch

    from agents.policies.models import load_language_model

    model, tokenizer = load_language_model(MODEL, dtype=torch.bfloat16 if bf16 else torch.float32)
    talks = [[{"role": "user", "content": question}] for question in questions(env)]
    texts = [tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False) for talk in talks]
    prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = [prompt for prompt in prompts for _ in range(GROUP_SIZE)]
    longest, padding = max(map(len, rows)), tokenizer.pad_token_id
    tokens = torch.full((len(rows), longest), padding)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, longest - len(row) :], mask[i, longest - len(row) :] = torch.tensor(row), 1
    stop = sentence_ends(tokenizer) if early else []
    how: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": padding}
    how |= {"eos_token_id": stop} if early else {"min_new_tokens": max_tokens}
    torch.manual_seed(0)

    def generate(count: int) -> torch.Tensor:
        limits = {"max_new_tokens": count} | ({} if early else {"min_new_tokens": count})
        return model.generate(tokens, attention_mask=mask, **{**how, **limits})[:, longest:]

    generate(2)
    lengths: list[int] = []
    ends = torch.tensor(stop, dtype=torch.int64)
    started, worked = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        found = generate(max_tokens)
        ended = torch.isin(found, ends)
        first = torch.where(ended.any(1), ended.int().argmax(1) + 1, found.shape[1])
        lengths += first.tolist()
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    settings = _settings(model, stop, torch.get_num_threads(), rounds)
    shown = {key: value for key, value in how.items() if key != "eos_token_id"}
    settings |= {"max_new_tokens": max_tokens, **shown, "attention": model.config._attn_implementation}
    return Measurement(sum(lengths) / seconds, settings, _notes(prompts, lengths, seconds / rounds, worked / rounds))


def _settings(model: Any, stop: list[int], threads: int, rounds: int) -> dict[str, Any]:
    import torch

    return {
        "model": f"{MODEL}, {sum(p.numel() for p in model.parameters()):,} parameters, {model.dtype}",
        "responses": f"{GROUPS} prompts x {GROUP_SIZE}, all at once",
        "float32 products": torch.get_float32_matmul_precision(),
        "stop tokens": len(stop),
        "torch threads": threads,
        "times measured": rounds,
    }


def _notes(prompts: list[Any], lengths: list[int], seconds: float, worked: float) -> dict[str, Any]:
    """What was generated, and the time once; the lengths' lowest, quartiles and highest tell their mix."""
    ordered = sorted(lengths)
    quartiles = [ordered[round(q * (len(ordered) - 1))] for q in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "prompt tokens": sorted(len(prompt) for prompt in prompts),
        "response tokens, lowest, quartiles, highest": quartiles,
        "response tokens, mean": round(sum(lengths) / len(lengths), 1),
        "seconds": round(seconds, 2),
        "processor seconds": round(worked, 2),
    }


def benchmark(options: Options) -> Benchmark:
    counts = [options.threads] if options.threads else sorted({1, usable_cores()}, reverse=True)
    sides, ratios = [], []
    for threads in counts:
        for bf16 in (False, True):
            for name, (env, max_tokens, early) in WORKLOADS.items():
                arguments = {"env": env, "max_tokens": max_tokens, "early": early, "rounds": options.steps or 1}
                what = f"{name}, bfloat16, {threads} threads" if bf16 else f"{name}, {threads} threads"
                mine, peer = (f"{who}, {what}" for who in ("ours", "transformers generate"))
                for side, function in ((mine, ours), (peer, peer_generate)):
                    sides.append(Side(side, function, {**arguments, "bf16": bf16}, threads))
                target = None if bf16 else 4.0 if early else 2.5
                ratios.append(Ratio(mine, peer, target=target, memory=not bf16))
    return Benchmark(
        title=f"Generation on SmolLM2-135M, {GROUPS} prompts x {GROUP_SIZE} responses",
        unit="tokens/s",
        sides=sides,
        ratios=ratios,
        requires=REQUIRES,
    )
