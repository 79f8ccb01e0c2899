"""Where things stand: rows of widgets on a page or in a window, and things strewn over the desktop, all at random."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from envs.gui.containers import Window
from envs.gui.desktop import Desktop
from envs.gui.widgets import Callback, Label, Panel, Widget

GAP = 4  # pixels, the least between two widgets
PAD = 5  # pixels, the least to the edge
Row = Sequence[Widget]


def measure(rows: Sequence[Row]) -> tuple[int, int]:
    """The least width and height of rows of widgets, edges included."""
    width = max(sum([widget.w for widget in row]) + GAP * (len(row) - 1) for row in rows)
    height = sum([max([widget.h for widget in row]) for row in rows]) + GAP * (len(rows) - 1)
    return width + 2 * PAD, height + 2 * PAD


def stack(rng: Random, ground: Widget, area: tuple[int, int, int, int], rows: Sequence[Row], spread: int = 8) -> None:
    """Puts rows on `ground` from the top of `area` (x, y, width, height) down, in one column or each at random.

    What is under a label is close to it.

    spread: pixels, the most that the distance between two rows is above the least.
    """
    x, y, w, h = area
    width, height = measure(rows)
    spare, column = max(h - height, 0), w - width
    aligned = rng.random() < 0.6
    indent = rng.randint(0, max(column, 0))
    y += PAD
    for i, row in enumerate(rows):
        under_label = i > 0 and len(rows[i - 1]) == 1 and isinstance(rows[i - 1][0], Label)
        extra = 0 if under_label else rng.randint(0, min(spare, spread if i else spare))
        spare -= extra
        y += extra
        tall = max([widget.h for widget in row])
        own = sum([widget.w for widget in row]) + GAP * (len(row) - 1) + 2 * PAD
        left = x + PAD + (indent if aligned else rng.randint(0, max(w - own, 0)))
        for widget in row:
            widget.place(left, y + (tall - widget.h) // 2)
            left += widget.w + GAP
        ground.add(*row)
        y += tall + GAP


def page(screen: Desktop, rng: Random, rows: Sequence[Row], spread: int = 12) -> Panel:
    """Rows on a page that fills the screen."""
    ground = Panel(screen.theme, screen.w, screen.h)
    stack(rng, ground, (0, 0, screen.w, screen.h), rows, spread)
    screen.add(ground)
    return ground


def window(
    screen: Desktop,
    rng: Random,
    title: str,
    rows: Sequence[Row],
    *,
    closed: Callback | None = None,
    modal: bool = False,
) -> Window:
    """Rows in a window somewhere on the screen."""
    width, height = measure(rows)
    width = max(width + 2, min(screen.theme.font.width(title) + 28, screen.w))
    height += screen.theme.font.height + 4
    w = rng.randint(width, min(width + 40, max(screen.w, width)))
    h = rng.randint(height, min(height + 30, max(screen.h, height)))
    ground = Window(screen.theme, title, w, h, closed=closed, modal=modal)
    ground.place(rng.randint(0, max(screen.w - w, 0)), rng.randint(0, max(screen.h - h, 0)))
    stack(rng, ground, ground.inner, rows)
    screen.add(ground)
    return ground


def surface(screen: Desktop, rng: Random, title: str, rows: Sequence[Row]) -> Widget:
    """Rows on a page or in a window, by chance."""
    return page(screen, rng, rows) if rng.random() < 0.5 else window(screen, rng, title, rows)


def strew(rng: Random, area: tuple[int, int, int, int], widgets: Sequence[Widget], gap: int = 3) -> None:
    """Places widgets within `area` (x, y, width, height), none overlapping, each in a cell of its own.

    The cells are as many as are needed, in the proportions of the area; each must hold the largest widget.
    """
    x, y, w, h = area
    widest = max(widget.w for widget in widgets) + gap
    tallest = max(widget.h for widget in widgets) + gap
    columns, rows = max(w // widest, 1), max(h // tallest, 1)
    while columns * rows < len(widgets):  # fewer fit than are there: closer, rather than on top of each other
        rows += 1
    cells = rng.sample(range(columns * rows), len(widgets))
    cell_w, cell_h = w // columns, h // rows
    for cell, widget in zip(cells, widgets, strict=True):
        row, column = divmod(cell, columns)
        free_x, free_y = max(cell_w - widget.w, 0), max(cell_h - widget.h, 0)
        widget.place(x + column * cell_w + rng.randint(0, free_x), y + row * cell_h + rng.randint(0, free_y))
