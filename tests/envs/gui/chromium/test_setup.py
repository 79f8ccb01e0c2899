import importlib.util
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import envs
from envs.gui.actions import TYPEABLE
from envs.gui.chromium import MINIWOB
from envs.gui.chromium.server import FileServer
from envs.gui.chromium.setup import make_setup, plain
from envs.gui.chromium.sites import miniwob_site, page_site

miniwob = pytest.mark.skipif(importlib.util.find_spec("miniwob") is None, reason="MiniWoB++: pip install miniwob")


@miniwob
def test_every_task_of_the_package_has_an_id():
    html = miniwob_site("click-test").directory
    pages = {file.stem for file in (html / "miniwob").glob("*.html")}
    flights = {f"flight.{file.parent.name}" for file in (html / "flight").glob("*/wrapper.html")}
    # The package itself registers three of its four flights.
    assert set(MINIWOB) == pages | (flights - {"flight.Alaska-auto-medium"})
    assert len(set(MINIWOB)) == len(MINIWOB)
    for name in MINIWOB:
        site = miniwob_site(name)
        assert (site.directory / site.page).is_file()
        assert envs.find_spec(f"chromium/{name}-v0").kwargs == {"task": name}


def test_a_missing_browser_is_named_with_its_remedy(monkeypatch):
    pytest.importorskip("playwright")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="chromium/page-v0 needs Chromium: apt-get install chromium"):
        make_setup("page", url=__file__, success="true")


def test_missing_pages_are_named_with_their_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install miniwob"):
        make_setup("click-test")


@pytest.mark.parametrize("url", ["http://example.com/", "https://127.0.0.1.example.com/x", "file:///etc/passwd"])
def test_pages_elsewhere_are_refused(url):
    with pytest.raises(ValueError, match="not on this host"):
        page_site(url, "", "true", None, (160, 210))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        page_site(str(tmp_path / "missing.html"), "", "true", None, (160, 210))


def test_instructions_are_in_characters_that_can_be_typed():
    text = plain("Café “x”\n  ½ → ok – no")
    assert set(text) <= TYPEABLE
    assert text.startswith("Cafe")
    assert '"x"' in text
    assert "\n" not in text
    assert len(plain("x" * 9999)) == 512


def test_the_server_gives_out_its_folder_and_nothing_else(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "page.html").write_text("hello")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    server = FileServer(folder)
    try:
        assert urllib.request.urlopen(server.url + "page.html").read() == b"hello"
        for path in ("", "../secret", "%2e%2e/secret", "link", str(Path("/etc/passwd"))):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(server.url + path)
    finally:
        server.close()
