"""Pages of one's own in a real browser: what hands do there, what is out of reach, what happens when it dies."""

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import envs
from envs.gui.actions import Action, to_space

pytestmark = pytest.mark.browser

SIZE = (200, 240)
PAGE = """<!doctype html>
<style>body { margin: 0; } * { position: absolute; }</style>
<input id=first style="left:0;top:0;width:90px;height:20px" value=old>
<input id=second style="left:100px;top:0;width:90px;height:20px">
<select id=choice style="left:0;top:30px;width:90px;height:20px"><option>one<option>two<option>three</select>
<div id=pad style="left:100px;top:30px;width:90px;height:60px;background:silver"></div>
<div id=scroller style="left:0;top:60px;width:90px;height:60px;overflow:auto"><p style="height:900px">long</p></div>
<button id=hang style="left:0;top:130px;width:90px;height:20px" onclick="while (true);">hang</button>
<a id=away style="left:0;top:160px" href="other.html">away</a>
<button id=later style="left:0;top:190px;width:90px;height:20px">later</button>
<script>
  const log = [];
  for (const type of ["mousedown", "mouseup", "mousemove", "dblclick", "contextmenu"])
    pad.addEventListener(type, (e) => log.push([type, e.clientX, e.clientY, e.buttons]));
  choice.addEventListener("change", () => log.push(["change", choice.value]));
  later.addEventListener("click", () => setTimeout(() => log.push(["later"]), 450));
</script>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "page.html").write_text(PAGE)
    (folder / "other.html").write_text("<title>other</title><body style='background:blue'>there")
    return folder


@pytest.fixture(scope="module")
def page(folder):
    env = envs.make_vec(
        "chromium/page-v0",
        num_envs=2,
        url=str(folder / "page.html"),
        success="second.value === 'done'",
        instruction='Write "done" { ½ }',
        size=SIZE,
        max_steps=50,
        timeout=8.0,
    )
    yield env
    env.close()


def do(env, *actions):
    given = [None if action is None else to_space(action) for action in actions]
    return env.step(given + [None] * (env.num_envs - len(given)))


def at(x, y):
    return (x + 0.5) / SIZE[0], (y + 0.5) / SIZE[1]


def ask(env, i, expression):
    [value] = env.browser.run([env._pages[i].evaluate(expression)])
    if isinstance(value, BaseException):
        raise value
    return value


def processes():
    """What is alive: each process, and its parent."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:  # gone meanwhile
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    return parents


def descendants(*pids):
    """Processes below these that are alive."""
    parents = processes()
    found, level = set(), set(pids)
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found |= level
    return found


def children():
    """Our own: one Playwright driver for each browser that runs."""
    return {child for child, parent in processes().items() if parent == os.getpid()}


def survivors(pids, seconds=15.0):
    """Those of the processes that have not ended within some seconds."""
    deadline = time.monotonic() + seconds
    while (left := pids & processes().keys()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_success_is_the_expressions_and_ends_the_episode(page):
    obs, _ = page.reset(seed=0)
    assert page.observation_space.contains(obs)
    assert obs["instruction"][0].startswith('Write "done" {')
    do(page, Action("click", point=at(150, 10)))
    _, reward, terminated, _, infos = do(page, Action("type", text="done"))
    assert (reward[0], terminated.tolist(), infos["reason"][0]) == (1.0, [True, False], "success")


def test_keys_type_select_copy_and_paste_and_pages_share_no_clipboard(page):
    page.reset(seed=0)
    both = lambda action: do(page, action, action)  # noqa: E731
    both(Action("click", point=at(40, 10)))
    do(page, Action("hotkey", keys="ctrl a"), Action("hotkey", keys="end"))
    do(page, Action("type", text='A.b-"C"'), Action("type", text="er"))
    assert [ask(page, i, "first.value") for i in range(2)] == ['A.b-"C"', "older"]
    both(Action("hotkey", keys="ctrl a"))
    both(Action("hotkey", keys="ctrl c"))
    both(Action("hotkey", keys="tab"))
    both(Action("hotkey", keys="ctrl v"))
    assert [ask(page, i, "second.value") for i in range(2)] == ['A.b-"C"', "older"]
    both(Action("hotkey", keys="shift left"))
    both(Action("hotkey", keys="ctrl x"))
    both(Action("hotkey", keys="ctrl v"))
    both(Action("hotkey", keys="ctrl v"))
    assert [ask(page, i, "second.value") for i in range(2)] == ['A.b-"C""', "olderr"]
    both(Action("hotkey", keys="backspace"))
    assert ask(page, 1, "second.value") == "older"


def test_the_mouse_clicks_twice_drags_and_asks_for_menus(page):
    page.reset(seed=0)
    do(page, Action("left_double", point=at(120, 50)))
    assert ["dblclick", 120, 50, 0] in ask(page, 0, "log")
    do(page, Action("right_single", point=at(120, 50)))
    assert "contextmenu" in [entry[0] for entry in ask(page, 0, "log")]
    ask(page, 0, "[log.length = 0, getSelection().empty()]")
    do(page, Action("drag", start=at(110, 40), end=at(170, 80)))
    log = ask(page, 0, "log")
    assert ["mousedown", 110, 40, 1] in log
    assert log[-1] == ["mouseup", 170, 80, 0]
    assert sum(entry[0] == "mousemove" and entry[3] == 1 for entry in log) >= 4


def test_what_is_draggable_is_carried_and_dropped(page):
    page.reset(seed=0)
    ask(
        page,
        0,
        """[away.draggable = true,
        away.addEventListener("dragstart", (e) => e.dataTransfer.setData("text/plain", "carried")),
        pad.addEventListener("dragover", (e) => e.preventDefault()),
        pad.addEventListener("drop", (e) => log.push(e.dataTransfer.getData("text/plain"))),
        pad.addEventListener("drop", (e) => e.preventDefault())]""",
    )
    do(page, Action("drag", start=at(10, 168), end=at(150, 60)))
    assert "carried" in ask(page, 0, "log")
    ask(page, 0, "log.length = 0")
    do(page, Action("drag", start=at(110, 40), end=at(170, 80)))  # the mouse is free again
    assert ask(page, 0, "log.at(-1)") == ["mouseup", 170, 80, 0]


def test_drop_downs_are_on_the_screenshot_and_can_be_clicked(page):
    closed, _ = page.reset(seed=0)
    opened, *_ = do(page, Action("click", point=at(40, 40)))
    assert not np.array_equal(opened["screenshot"][0][51:90, :90], closed["screenshot"][0][51:90, :90])
    do(page, Action("click", point=at(20, 50 + 24)))  # the second of three rows of 16 or so pixels
    assert ask(page, 0, "[choice.value, ...log.flat()]") == ["two", "change", "two"]


def test_wheel_and_time(page):
    page.reset(seed=0)
    do(page, Action("scroll", point=at(40, 90), direction="down"))
    assert ask(page, 0, "scroller.scrollTop") == 60
    do(page, Action("scroll", point=at(40, 90), direction="up"))
    assert ask(page, 0, "scroller.scrollTop") == 0
    do(page, Action("click", point=at(40, 200)))
    assert ask(page, 0, "log.at(-1)") == ["later"]
    before = ask(page, 0, "Date.now()")
    assert ask(page, 0, "Date.now()") == before  # nothing moves between two steps
    do(page, Action("wait"))
    assert ask(page, 0, "Date.now()") - before == 5000


def test_links_are_followed_before_the_screen_is_looked_at(page):
    page.reset(seed=0)
    obs, *_ = do(page, Action("click", point=at(10, 168)))
    assert ask(page, 0, "document.title") == "other"
    assert obs["screenshot"][0][-1, -1].tolist() == [0, 0, 255]


@pytest.fixture
def outside(folder):
    """A server of this machine, and its address in the network rather than the loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            address = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        pytest.skip("this machine has no address but the loopback one")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("0.0.0.0", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    port = server.server_address[1]
    assert urllib.request.urlopen(f"http://{address}:{port}/other.html").status == 200
    yield address, port
    server.shutdown()
    server.server_close()


def test_nothing_but_the_loopback_address_can_be_reached(page, outside):
    address, port = outside
    page.reset(seed=0)
    fetch = "fetch('%s', {mode: 'no-cors'}).then(() => 'reached', () => 'failed')"
    assert ask(page, 0, fetch % "other.html") == "reached"
    assert ask(page, 0, fetch % f"http://127.0.0.1:{port}/other.html") == "reached"
    for url in (f"http://{address}:{port}/other.html", "http://example.com/", "file:///etc/passwd"):
        assert ask(page, 0, fetch % url) == "failed", url
    ask(page, 0, f"location.href = 'http://{address}:{port}/other.html'")
    do(page, Action("wait"))
    assert ask(page, 0, "document.title") != "other"


def test_cookies_and_storage_end_with_the_episode(page):
    page.reset(seed=0)
    ask(page, 0, "document.cookie = 'a=1', localStorage.a = 1, sessionStorage.a = 1")
    page.reset(seed=0)
    assert ask(page, 0, "[document.cookie, localStorage.a || '', sessionStorage.a || '']") == ["", "", ""]


def test_a_page_that_hangs_is_truncated_and_the_others_go_on(page):
    page.reset(seed=0)
    obs, reward, terminated, truncated, infos = do(page, Action("click", point=at(40, 140)), Action("wait"))
    assert (truncated.tolist(), terminated.any(), reward.tolist()) == ([True, False], False, [0.0, 0.0])
    assert infos["reason"].tolist() == ["crash", ""]
    assert page.observation_space.contains(obs)
    page.reset(options={"reset_mask": truncated})
    assert not do(page, Action("wait"), Action("wait"))[3].any()


def test_a_killed_browser_truncates_and_is_replaced(page):
    page.reset(seed=0)
    chromium = [
        pid
        for pid in descendants(os.getpid())
        if b"--remote-debugging-pipe" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert chromium
    for pid in chromium:
        os.kill(pid, signal.SIGKILL)
    obs, _, terminated, truncated, infos = do(page, Action("wait"), Action("wait"))
    assert truncated.all()
    assert not terminated.any()
    assert infos["reason"].tolist() == ["crash", "crash"]
    assert page.observation_space.contains(obs)
    page.reset(seed=0)
    assert not do(page, Action("wait"), Action("wait"))[3].any()


def test_functions_in_python_judge_too(folder):
    env = envs.make_vec(
        "chromium/page-v0",
        url=str(folder / "page.html"),
        success=lambda evaluate: evaluate("first.value") == "oldx",
        done=lambda evaluate: evaluate("document.activeElement.id") == "second",
        size=SIZE,
    )
    before = children()  # another browser may run, and start processes meanwhile
    try:
        env.reset(seed=0)
        [driver] = children() - before
        started = {driver} | descendants(driver)
        assert len(started) >= 3
        do(env, Action("click", point=at(80, 10)))
        _, reward, terminated, *_ = do(env, Action("type", text="x"))
        assert (reward[0], terminated[0]) == (0.0, False)
        _, reward, terminated, *_ = do(env, Action("hotkey", keys="tab"))
        assert (reward[0], terminated[0]) == (1.0, True)
    finally:
        env.close()
    assert not survivors(started)


def test_a_predicate_that_does_not_parse_is_the_callers_to_know(folder):
    env = envs.make_vec("chromium/page-v0", url=str(folder / "page.html"), success="nothing.at.all")
    try:
        with pytest.raises(ValueError, match="nothing is not defined"):
            env.reset(seed=0)
    finally:
        env.close()


def test_the_browser_dies_with_its_parent(folder):
    script = (
        "import sys, envs\n"
        f"env = envs.make_vec('chromium/page-v0', url={str(folder / 'page.html')!r}, success='false')\n"
        "env.reset(seed=0)\nprint('ready', flush=True)\nsys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    started = descendants(parent.pid)
    assert len(started) >= 2
    parent.kill()
    parent.wait()
    assert not survivors(started)
