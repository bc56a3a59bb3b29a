"""Text of models and data on a screen or in a report: no character of it controls the terminal.  text -> text

A terminal obeys control sequences in what it shows: they clear it, set its title, or hide a line. So all text goes to
the screen through `show`, `write` or a table, and into a report through `printable`.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_CONTROLS = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # C0 without newline, tab and return; DEL; C1.
    r"|\r(?!\n)"  # A return alone overwrites the line.
    "|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # They change the direction of what is shown.
    "|[\ud800-\udfff]"  # Halves of characters, which UTF-8 cannot hold.
)


def printable(text: str) -> str:
    r"""The text with its control characters as escapes: "\x1b[2J", "\u202e". Newlines and tabs stay."""
    return _CONTROLS.sub(lambda found: _escape(ord(found[0])), text)


def show(console: Console, text: str, style: str | None = None, *, wrap: bool = False) -> None:
    """Print a text on a console, its markup and control characters as they are written.

    wrap: at the console's width, between words.
    """
    console.print(printable(text), style=style, markup=False, emoji=False, highlight=False, soft_wrap=not wrap)


def write(text: str, file: TextIO | None = None, *, end: str = "\n") -> None:
    """Write a plain text to a stream (default: stdout) at once."""
    print(printable(text), file=file or sys.stdout, end=end, flush=True)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
