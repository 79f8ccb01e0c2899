"""Encoder forward passes on 160x210 screenshots: ours from uint8, and the bare transformers module on ready pixels.

Both sides have the same weights and the same images in the same batches. The bare module is given its input as it
wants it, float32, normalised and padded, off the clock; ours does that on the clock. The CNN has no peer; it shows what
the transformers are up against.
"""

from __future__ import annotations

import time
from typing import Any

from experiments.benchmarks import Benchmark, Measurement, Options, Ratio, Side

SHAPE = (210, 160, 3)
BATCH = 16
KINDS = ("vit", "clip", "siglip")
ALLOWED = 1.2  # times the bare module


def ours(kind: str, passes: int) -> Measurement:
    import torch

    encoder, images = _encoder(kind)
    return _measure(lambda: encoder(images), passes, {"encoder": kind, "input": "uint8 [16, 210, 160, 3]"}, torch)


def peer_bare(kind: str, passes: int) -> Measurement:
    """The transformers module alone."""
    import torch

    encoder, images = _encoder(kind)
    tower = encoder.tower("")
    pixels = tower.pixels(images)
    settings = {"module": type(tower.model).__name__, "input": f"float32 {list(pixels.shape)}"}
    return _measure(lambda: tower.model(pixels, interpolate_pos_encoding=True), passes, settings, torch)


def _encoder(kind: str) -> Any:
    """An encoder of that name, and screenshots."""
    import numpy as np
    import torch
    from gymnasium import spaces

    from agents.encoders import make_encoder

    torch.manual_seed(0)
    space = spaces.Box(0, 255, SHAPE, np.uint8)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE), np.uint8))
    return make_encoder(space, kind), images


def _measure(forward: Any, passes: int, settings: dict[str, Any], torch: Any) -> Measurement:
    with torch.inference_mode():
        for _ in range(3):
            forward()
        times = []
        for _ in range(passes):
            started = time.perf_counter()
            forward()
            times.append(time.perf_counter() - started)
    # The fastest pass: interruptions only ever add.
    return Measurement(BATCH / min(times), {**settings, "passes": passes, "rate is": "that of the fastest pass"})


def benchmark(options: Options) -> Benchmark:
    passes = 30 if options.steps is None else max(1, options.steps // BATCH)
    threads = options.threads or 1
    sides: list[Side] = [Side("ours, cnn", ours, {"kind": "cnn", "passes": passes}, threads)]
    ratios = []
    for kind in KINDS:
        arguments = {"kind": kind, "passes": passes}
        mine, bare = f"ours, {kind}", f"bare transformers, {kind}"
        sides += [Side(mine, ours, arguments, threads), Side(bare, peer_bare, arguments, threads)]
        ratios.append(Ratio(mine, bare, target=round(1 / ALLOWED, 2), memory=False))
    ratios.append(Ratio("ours, cnn", "ours, vit", memory=False))
    return Benchmark("encoder forward passes on 160x210 screenshots", "screenshots/s", sides, ratios)
