"""A window of the real desktop that shows a screen with its pointer (render_mode="human")."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_ARROW = ((0, 0), (0, 11), (3, 8), (5, 13), (7, 12), (5, 8), (8, 8))


def with_pointer(pixels: NDArray[np.uint8], pointer: tuple[int, int]) -> NDArray[np.uint8]:
    """A copy of a screen, uint8 [H, W, 3], with an arrow whose tip is at `pointer` (column, row)."""
    image = Image.fromarray(pixels)
    outline = [(pointer[0] + x, pointer[1] + y) for x, y in _ARROW]
    ImageDraw.Draw(image).polygon(outline, fill=(255, 255, 255), outline=(0, 0, 0))
    return np.array(image)


class Viewer:
    """Shows screens of `size` (width, height), enlarged by whole numbers, with the instruction as the window's title.

    Raises RuntimeError where no window can be opened.
    """

    def __init__(self, size: tuple[int, int], seconds: float = 0.5) -> None:
        try:
            import tkinter

            self._root: Any = tkinter.Tk()
        except Exception as error:  # ImportError, or TclError without a display
            raise RuntimeError(
                f'render_mode="human" needs tkinter (on Debian: apt-get install python3-tk) and a display ({error}); '
                'render_mode="rgb_array" needs neither.'
            ) from None
        self._scale = max(640 // size[0], 1)
        self._milliseconds = int(seconds * 1000)
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self._image: Any = None

    def show(self, pixels: NDArray[np.uint8], pointer: tuple[int, int], title: str) -> None:
        """Shows a screen for a while."""
        from PIL import ImageTk

        image = Image.fromarray(with_pointer(pixels, pointer))
        image = image.resize((image.width * self._scale, image.height * self._scale), Image.Resampling.NEAREST)
        self._image = ImageTk.PhotoImage(image, master=self._root)  # tkinter itself keeps no reference
        self._label.configure(image=self._image)
        self._root.title(title)
        self._root.update()
        self._root.after(self._milliseconds)

    def close(self) -> None:
        """Closes the window."""
        self._root.destroy()
