"""Tables for the terminal and for Markdown, and how figures are written in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lai_ray.common import screen
from lai_ray.common.intervals import Interval
from lai_ray.common.screen import printable

GAP = 2
"""Characters between two columns."""


@dataclass
class Table:
    """A title, column names, rows of text, and a note below them."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""

    def markdown(self) -> str:
        """As Markdown, without control characters."""
        lines = [f"## {self.title}", "", _row(self.columns), _row(["---"] + ["---:"] * (len(self.columns) - 1))]
        return printable("\n".join([*lines, *map(_row, self.rows), "", *([self.note, ""] if self.note else [])]))

    def rich(self, width: int) -> RichTable:
        """For a terminal of so many characters. Without title and note: Rich would wrap them to the table's width."""
        table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
        for i, (column, fitting) in enumerate(zip(self.columns, self._widths(width), strict=True)):
            table.add_column(Text(printable(column)), justify="right" if i else "left", overflow="fold", width=fitting)
        for row in self.rows:
            table.add_row(*(Text(printable(str(cell))) for cell in row))  # Not markup: a cell may be "ray[default]".
        return table

    def parts(self, width: int) -> list[Table]:
        """Itself; where its words do not fit beside each other, tables of some columns each, the first in all."""
        words, groups = self._longest(str.split), [[0]]
        for i in range(1, len(words)):
            if len(groups[-1]) > 1 and sum(words[j] + GAP for j in groups[-1]) + words[i] > width:
                groups.append([0])
            groups[-1].append(i)
        return [
            Table(self.title, [self.columns[i] for i in group], [[row[i] for i in group] for row in self.rows])
            for group in groups
        ]

    def _longest(self, split: Callable[[str], list[str]]) -> list[int]:
        """Characters of the longest piece of each column, names included."""
        columns = [[printable(str(row[i])) for row in (self.columns, *self.rows)] for i in range(len(self.columns))]
        return [max(cell_len(piece) for cell in cells for piece in (*split(cell), "")) for cells in columns]

    def _widths(self, width: int) -> list[int]:
        """Of the columns. Where they do not fit, the widest columns are wrapped: between words, else within them."""
        widths, words = self._longest(str.splitlines), self._longest(str.split)
        while sum(widths) + GAP * (len(widths) - 1) > width and max(widths) > 1:
            wrapped = [i for i in range(len(widths)) if widths[i] > words[i]] or range(len(widths))
            widths[max(wrapped, key=widths.__getitem__)] -= 1
        return widths


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"


def show(tables: list[Table], console: Console) -> None:
    """Print tables on the terminal; one without rows is left out."""
    for table in tables:
        if table.rows:
            screen.show(console, table.title, "bold", wrap=True)
            for part in table.parts(console.width):
                console.print(part.rich(console.width))
            screen.show(console, table.note + "\n" * bool(table.note), "italic dim", wrap=True)


def percent(interval: Interval | None, below: str = "") -> str:
    """ "52.3" and below it "50.1–54.5"; only the value where the interval is infinite; a dash for None.

    below: a further line, as of the answers that were not read.
    """
    if interval is None:
        return "–"
    bounds = "" if math.isinf(interval.high) else f"\n{100 * interval.low:.1f}–{100 * interval.high:.1f}"
    return f"{100 * interval.value:.1f}{bounds}" + (f"\n{below}" if below else "")


def points(interval: Interval | None) -> str:
    """ "+3.4" and below it "+1.2 to +5.6", as `percent`."""
    if interval is None:
        return "–"
    bounds = "" if math.isinf(interval.high) else f"\n{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
    return f"{100 * interval.value:+.1f}{bounds}"


def sizes_text(size: int | dict[str, int]) -> str:
    """A number of samples of each dataset: "3000", "2000 gsm8k + 500 mbpp"."""
    return " + ".join(f"{n} {name}" for name, n in size.items()) if isinstance(size, dict) else str(size)
