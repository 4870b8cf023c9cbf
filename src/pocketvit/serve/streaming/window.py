"""Frames in a window of Tk, which comes with Python; Esc, q or closing it ends the stream."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from PIL import Image

from pocketvit.errors import UsageError
from pocketvit.serve.streaming.drawing import onto
from pocketvit.spec.preprocess import Pixels

SHARE = 0.9
"""Of the screen's sides that a picture takes at most."""
_TODO = "Write a file instead: --output out.mp4."


class Window:
    """Tk belongs to the thread that makes it: all calls come from one thread."""

    def __init__(self, title: str) -> None:
        """Open it.

        Raises:
            UsageError: there is no screen, or this Python has no Tk.
        """
        try:
            import tkinter

            from PIL import ImageTk
        except ImportError as error:
            what = "this Python cannot open windows (tkinter is missing)."
            raise UsageError(what, f"Install your system's python3-tk, or: {_TODO}") from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UsageError(f"no window can be opened ({error}).", _TODO) from error
        self._photo, self._error = ImageTk.PhotoImage, tkinter.TclError
        self._label = tkinter.Label(self._root, borderwidth=0, background="black")
        self._label.pack(expand=True)
        self._shown: Any = None  # Tk does not keep its pictures alive
        self.closed, self.frames = False, 0
        """Whether somebody closed it; pictures shown."""
        self._root.title(title)
        self._root.configure(background="black")
        self._root.protocol("WM_DELETE_WINDOW", self._close)
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda event: self._close())
        self._most = int(SHARE * self._root.winfo_screenheight()), int(SHARE * self._root.winfo_screenwidth())
        self.poll()

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(self._error):  # gone already, with its screen
            self._root.destroy()

    def write(self, picture: Pixels, seconds: float) -> None:
        """Show (H, W, 3) uint8 RGB, made smaller where the screen is; ``seconds`` does not matter here."""
        height, width = picture.shape[:2]
        scale = min(1.0, self._most[0] / height, self._most[1] / width)
        if scale < 1:
            picture = onto(picture, (max(1, int(height * scale)), max(1, int(width * scale))))
        if not self.closed:
            self._shown = self._photo(Image.fromarray(picture), master=self._root)
            self._label.configure(image=self._shown)
            self.frames += 1
        self.poll()

    def poll(self) -> None:
        """Let it react to keys and clicks; a screen that is gone counts as closed."""
        try:
            self._root.update()
        except self._error:
            self.closed = True

    def _close(self) -> None:
        self.closed = True
