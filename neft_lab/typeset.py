"""Tables to Markdown, LaTeX, CSV and the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from neft_lab.tables import Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def to_csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([table.header, *table.rows])
    return text.getvalue()


def to_markdown(tables: Sequence[Table]) -> str:
    """All tables as one Markdown page."""
    from tabulate import tabulate

    parts = []
    for table in tables:
        body = tabulate(_marked(table), headers=table.header, tablefmt="github", disable_numparse=True)
        notes = "\n".join(f"- {note}" for note in table.notes)
        parts.append(f"## {table.title}\n\n{body}\n\n{notes}\n")
    return "\n".join(parts)


def _marked(table: Table) -> list[list[str]]:
    """Cells that cannot break a Markdown table, the strong ones between stars."""
    return [
        [
            f"**{text}**" if (line, place) in table.strong else text
            for place, text in enumerate(cell.replace("|", "\\|").replace("\n", " ") for cell in row)
        ]
        for line, row in enumerate(table.rows)
    ]


SYMBOLS = {
    "–": "--", "−": "$-$", "×": r"$\times$", "÷": r"$\div$", "≥": r"$\geq$", "≈": r"$\approx$", "α": r"$\alpha$", "†": r"\dag{}",
    "⁻": "$^{-}$", **{digit: f"$^{{{number}}}$" for number, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}  # fmt: skip
"""What LaTeX needs a command for."""
MINUS = re.compile(r"(?<![\w-])-(?=\d)")
"""A hyphen that is the sign of a number."""


def to_latex(tables: Sequence[Table]) -> str:
    """All tables as floats with caption and notes.

    Needs \\usepackage{booktabs}, and an engine that knows Unicode where names are not in Latin letters.
    """
    return "\n".join(map(_float, tables))


def _float(table: Table) -> str:
    import pandas

    frame = pandas.DataFrame(table.rows, columns=table.header)
    strong = pandas.DataFrame("", index=frame.index, columns=frame.columns)
    for line, place in table.strong:
        strong.iloc[line, place] = "textbf:--rwrap"
    styled = frame.style.hide(axis="index").format(escape="latex").apply(lambda _: strong, axis=None)
    styled = styled.format_index(escape="latex", axis="columns")
    caption, *notes = _escape([table.title, *table.notes])
    text = "".join([
        f"\\begin{{table}}\n\\centering\\small\n\\caption{{{caption}}}\n",
        styled.to_latex(hrules=True, column_format="l" * len(table.header)),
        "\\par\\smallskip\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright\n",
        "\n\\par ".join(notes), "\n\\end{minipage}\n\\end{table}\n",
    ])  # fmt: skip
    for symbol, command in SYMBOLS.items():
        text = text.replace(symbol, command)
    return MINUS.sub("$-$", text)


def _escape(texts: Sequence[str]) -> list[str]:
    """Texts as LaTeX, by way of a table of one column."""
    import pandas

    styled = pandas.DataFrame(texts).style.hide(axis="index").hide(axis="columns").format(escape="latex")
    return [line.removesuffix(" \\\\") for line in styled.to_latex().splitlines()[1:-1]]


def to_rich(table: Table) -> RichTable:
    """The table for the terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        title=Text(table.title),
        caption=Text("\n".join(table.notes)),  # what is in brackets is no markup
        caption_justify="left",
        title_justify="left",
    )
    for name in table.header:
        drawn.add_column(Text(name))
    for line, row in enumerate(table.rows):
        drawn.add_row(*(Text(cell, style="bold" if (line, place) in table.strong else "")
                        for place, cell in enumerate(row)))  # fmt: skip
    return drawn
