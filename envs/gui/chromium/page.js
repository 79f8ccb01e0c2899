// Put into every document before its own scripts run: chance and time of the episode, and what a headless browser does
// not draw. `seed` is a string; `width` and `height` are those of the screen in pixels.
(seed, width, height) => {
  // Chance: mulberry32 of an FNV-1a hash of the seed.
  let state = 2166136261;
  for (const character of seed) state = Math.imul(state ^ character.charCodeAt(0), 16777619);
  Math.random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };

  // Time: stands still but for `advance`, which runs what became due, in order.
  const epoch = Date.UTC(2020, 0, 15, 12), soon = window.setTimeout.bind(window);
  const timers = new Map();
  let now = 0, last = 0;
  const plan = (run, delay, every) => {
    timers.set(++last, { at: now + delay, run, every });
    return last;
  };
  const callback = (run, values) => (typeof run === "function" ? () => run.apply(window, values) : () => (0, eval)(run));
  const duration = (value, least) => Math.max(least, Number(value) || 0);
  window.setTimeout = (run, delay, ...values) => plan(callback(run, values), duration(delay, 1), null);
  window.setInterval = (run, delay, ...values) => plan(callback(run, values), duration(delay, 4), duration(delay, 4));
  window.requestAnimationFrame = (run) => plan(() => run(now), 16 - (now % 16), null);
  window.requestIdleCallback = (run) => plan(() => run({ didTimeout: false, timeRemaining: () => 10 }), 1, null);
  window.clearTimeout = window.clearInterval = (id) => void timers.delete(id);
  window.cancelAnimationFrame = window.cancelIdleCallback = window.clearTimeout;
  performance.now = () => now;
  window.Date = new Proxy(Date, {
    construct: (date, values, target) => Reflect.construct(date, values.length ? values : [epoch + now], target),
    apply: () => new Date(epoch + now).toString(),
    get: (date, name) => (name === "now" ? () => epoch + now : date[name]),
  });
  const advance = async (milliseconds) => {
    const until = now + milliseconds;
    await null;
    for (let fired = 0; fired < 20000; fired++) {
      let next = null;
      for (const [id, timer] of timers) {
        if (timer.at <= until && (next === null || timer.at < timers.get(next).at)) next = id;
      }
      if (next === null) break;
      const timer = timers.get(next);
      now = Math.max(now, timer.at);
      if (timer.every === null) timers.delete(next);
      else timer.at = now + timer.every;
      try {
        timer.run();
      } catch (error) {
        console.error(error);
      }
      await null; // what promises have waiting
    }
    now = until;
    for (let i = 0; i < frames.length; i++) {
      try {
        await frames[i].__screen.advance(milliseconds);
      } catch {} // a frame of another origin, or without a document
    }
  };
  Object.defineProperty(window, "__screen", {
    value: { advance, pause: (milliseconds) => new Promise((resolve) => soon(resolve, milliseconds)) },
  });

  // Stylesheets' transitions and animations run on the real clock: they end as they begin. No caret blinks.
  const style = new CSSStyleSheet();
  style.replaceSync(`*, *::before, *::after {
    transition-duration: 1ms !important; transition-delay: 0s !important; animation-duration: 1ms !important;
    animation-delay: 0s !important; animation-iteration-count: 1 !important; caret-color: transparent !important;
    scroll-behavior: auto !important;
  }`);
  document.adoptedStyleSheets = [style];

  // The clipboard is the page's own: that of the browser is shared by all of its pages.
  let clipboard = "";
  const take = (event) => {
    clipboard = String(getSelection()) || clipboard;
    event.preventDefault();
    if (event.type === "cut") document.execCommand("delete");
  };
  addEventListener("copy", take);
  addEventListener("cut", take);
  addEventListener("paste", (event) => {
    if (event.defaultPrevented) return;
    event.preventDefault();
    document.execCommand("insertText", false, clipboard);
  });

  // The list of a drop-down is a window of the system, which no screenshot shows: one that is part of the page.
  let list = null;
  const close = () => {
    list?.host.remove();
    list = null;
  };
  const open = (select) => {
    const host = document.createElement("div"), box = document.createElement("div"), at = select.getBoundingClientRect();
    const below = height - at.bottom, above = at.top, room = Math.max(below, above, 40);
    host.style.cssText = "position:fixed;left:0;top:0;z-index:2147483647";
    box.style.cssText =
      `position:fixed;left:${Math.min(at.left, width - 40)}px;box-sizing:border-box;overflow:auto;background:white;` +
      `color:black;border:1px solid gray;min-width:${at.width}px;max-height:${room}px;font:11px sans-serif;` +
      (below >= above || below > 80 ? `top:${at.bottom}px` : `bottom:${innerHeight - at.top}px`);
    [...select.options].forEach((option, index) => {
      const row = document.createElement("div");
      row.textContent = option.label;
      row.style.cssText = `padding:1px 4px;white-space:nowrap;color:${option.disabled ? "gray" : "inherit"}`;
      if (index === select.selectedIndex) row.style.background = "#cde";
      row.addEventListener("mousedown", (event) => event.preventDefault()); // the drop-down keeps the focus
      row.addEventListener("click", () => {
        if (option.disabled) return;
        close();
        if (select.selectedIndex === index) return;
        select.selectedIndex = index;
        select.dispatchEvent(new Event("input", { bubbles: true }));
        select.dispatchEvent(new Event("change", { bubbles: true }));
      });
      box.append(row);
    });
    host.attachShadow({ mode: "closed" }).append(box);
    document.documentElement.append(host);
    list = { host, select };
  };
  const dropDown = (target) => {
    const select = target instanceof Element ? target.closest("select") : null;
    return select && !select.multiple && select.size <= 1 && !select.disabled ? select : null;
  };
  addEventListener("mousedown", (event) => {
    const select = dropDown(event.target), opened = list?.select;
    if (event.button !== 0 || event.target === list?.host) return;
    close();
    if (select === null) return;
    event.preventDefault();
    select.focus();
    if (select !== opened) open(select);
  }, true);
  addEventListener("keydown", (event) => {
    const select = dropDown(event.target);
    if (event.key === "Escape" || event.key === "Tab") close();
    if (select === null || (event.key !== " " && event.key !== "Enter")) return;
    event.preventDefault();
    if (list === null) open(select);
    else close();
  }, true);
}
