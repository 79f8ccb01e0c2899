"""Text spaces: a wide character set, written once, and a membership test that costs nanoseconds a character.

Left out: Gymnasium's `flatten` on such a space works, but a vector of one index per character is no use here.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Before every message of a conversation but the first, which are in turn the policy's and the environment's: ASCII's
# record separator. No response has it, so that none can feign a turn.
TURN = "\x1e"

# Latin, Greek, punctuation, sub- and superscripts, arrows, mathematical operators, technical signs, boxes,
# shapes, dingbats, variation selectors, emoji.
_RANGES = (
    (0x0020, 0x007E),
    (0x00A0, 0x024F),
    (0x0370, 0x03FF),
    (0x2000, 0x23FF),
    (0x2500, 0x27EF),
    (0x2900, 0x2BFF),
    (0xFE00, 0xFE0F),
    (0x1F300, 0x1FAFF),
    (0xE0100, 0xE01EF),
)
CHARSET = frozenset(chr(code) for lo, hi in _RANGES for code in range(lo, hi + 1)) | {"\t", "\n", REPLACEMENT}


class TextSpace(spaces.Text):
    """`gymnasium.spaces.Text` from the empty string up, made for a character set of thousands.

    Copies share the immutable tables (a batch of 1024 spaces would otherwise hold millions of entries).
    """

    def __init__(self, max_length: int, charset: frozenset[str] = CHARSET) -> None:
        super().__init__(max_length, min_length=0, charset=charset)

    def contains(self, x: Any) -> bool:
        """Whether x is a string of allowed length and characters."""
        return isinstance(x, str) and len(x) <= self.max_length and self._char_set.issuperset(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> TextSpace:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied._np_random = deepcopy(self._np_random, memo)
        return copied

    def __repr__(self) -> str:
        return f"TextSpace(0, {self.max_length}, {len(self._char_set)} characters)"


def clean(text: str, max_length: int, charset: frozenset[str]) -> str:
    """`text` made a member of the space: cut to `max_length`, unknown characters replaced."""
    text = text[:max_length]
    if charset.issuperset(text):
        return text
    return "".join(char if char in charset else REPLACEMENT for char in text)


def pack_strings(strings: list[str]) -> dict[str, np.ndarray]:
    """Strings as two plain arrays: utf-8 `bytes` (uint8 [total]) and `ends` (int64 [len(strings)])."""
    encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
    return {
        "bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8).copy(),
        "ends": np.cumsum([len(part) for part in encoded], dtype=np.int64),
    }


def unpack_strings(bytes_: np.ndarray, ends: np.ndarray) -> list[str]:
    """Inverse of `pack_strings`."""
    joined = bytes_.astype(np.uint8).tobytes()
    starts = [0, *ends.tolist()]
    return [joined[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(starts)]
