"""The words on buttons, in lists and to be typed."""

from __future__ import annotations

from random import Random

BUTTONS = (
    *("OK", "Cancel", "Submit", "Yes", "No", "Help", "Save", "Open", "Close", "Next", "Back", "Done", "Send", "Reply"),
    *("Apply", "Print", "Copy", "Paste", "Undo", "Redo", "Find", "Sort", "Edit", "View", "Add", "Remove", "Delete"),
    *("Login", "Logout", "Search", "Share", "Start", "Stop", "Pause", "Reset", "Update", "Install", "Skip", "More"),
    *("Less", "Refresh", "Upload", "Export", "Import", "Filter", "Retry", "Accept", "Reject", "Confirm", "Finish"),
)
NOUNS = (
    *("apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbor", "island", "jacket", "kettle"),
    *("ladder", "market", "needle", "orange", "pencil", "quartz", "river", "silver", "temple", "urchin", "valley"),
    *("window", "yellow", "zebra", "anchor", "basket", "cotton", "dragon", "eagle", "falcon", "glove", "hammer"),
    *("insect", "jungle", "kitten", "lemon", "mirror", "napkin", "olive", "parrot", "quiver", "rocket", "saddle"),
    *("tunnel", "violin", "walnut", "barrel", "carpet", "domino", "feather", "guitar", "helmet", "magnet", "planet"),
)
NAMES = (
    *("Ada", "Ben", "Cleo", "Dora", "Eli", "Fay", "Gus", "Hana", "Ivo", "Jana", "Kim", "Leo", "Mia", "Nils", "Olga"),
    *("Pia", "Quin", "Rosa", "Sam", "Tara", "Uma", "Vera", "Wim", "Xenia", "Yara", "Zoe", "Karl", "Lena", "Omar"),
)
TITLES = ("Home", "Mail", "News", "Tools", "Shop", "Notes", "Files", "Music", "Photos", "Tasks", "Maps", "Forum")
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def invented(rng: Random, syllables: int) -> str:
    """A word that does not exist, easy to read."""
    return "".join([rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(syllables)])


def secret(rng: Random, length: int) -> str:
    """Letters and digits that look alike in no font."""
    return "".join(rng.choices("abcdefghjkmnpqrstuvwxyz23456789", k=length))
