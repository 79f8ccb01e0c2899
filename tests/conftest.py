"""What every test starts from: one torch thread, seeded weights, and no deadlines for random inputs."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Where two files' bytes part. pytest's own diff of two checkpoints would take half an hour."""
    if op != "==" or not isinstance(left, bytes) or not isinstance(right, bytes):
        return None
    pairs = enumerate(zip(left, right, strict=False))
    place = next((at for at, (one, other) in pairs if one != other), min(len(left), len(right)))
    around = slice(max(0, place - 20), place + 20)
    lengths = f"{len(left)} bytes == {len(right)} bytes"
    return [lengths, f"they part at byte {place}:", f"  {left[around]!r}", f"  {right[around]!r}"]
