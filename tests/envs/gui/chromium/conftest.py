import importlib.util
import shutil

import pytest

from envs.gui.chromium.browser import EXECUTABLES


def pytest_collection_modifyitems(items):
    """Tests marked `browser` are skipped where Chromium, Playwright or MiniWoB++ is missing."""
    missing = [name for name in ("playwright", "miniwob") if importlib.util.find_spec(name) is None]
    if not any(map(shutil.which, EXECUTABLES)):
        missing.append("chromium")
    if missing:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))
