"""How lines look on a terminal, and how without one."""

import os
import shutil
import sys

IS_TERMINAL = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
HAS_COLOUR = IS_TERMINAL and not os.environ.get("NO_COLOR")

COLOURS = {"red": 31, "green": 32, "yellow": 33, "grey": 90}


def coloured(text: str, colour: str | None) -> str:
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if HAS_COLOUR and colour else text


class Screen:
    """Lines that scroll, and a last line that is written over. Elsewhere than on a terminal it is printed again when
    what matters of it has changed."""

    def __init__(self) -> None:
        self._last = ""
        self._shown: object = None

    def line(self, text: str) -> None:
        self._write(f"\r\x1b[K{text}\n{self._last}" if IS_TERMINAL else f"{text}\n")

    def last_line(self, text: str, matters: object) -> None:
        if IS_TERMINAL:
            # One that is broken by the right margin could not be written over.
            self._last = text[: shutil.get_terminal_size().columns - 1]
            self._write(f"\r\x1b[K{self._last}")
        elif matters != self._shown:
            self._shown = matters
            self._write(f"{text}\n")

    def close(self) -> None:
        if IS_TERMINAL and self._last:
            self._write("\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
