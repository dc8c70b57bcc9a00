"""Every paired difference with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from neft_lab.claims.comparisons import Comparison, label_comparisons
from neft_lab.claims.labels import title_of
from neft_lab.figures.style import INK, MUTED, PAGE, PALETTE, PAPER, Figure, capital, finish, open_canvas
from neft_lab.tables import rounded

BLUE, ORANGE, GREEN = PALETTE[:3]
COLORS = {"higher": BLUE, "gained": BLUE, "lower": ORANGE, "lost": ORANGE, "preserved": GREEN}
"""By verdict; whatever is undecided, not told apart or only described is grey."""

Block = list[tuple[str, Comparison]]
"""The comparisons on one metric, with their labels."""
PAGE_LINES = 40

CAPTION = (
    "Arm minus baseline on the same items, with 95 % intervals. Blue: higher. Orange: lower. Green: preserved. "
    "Grey: undecided, not told apart, or described only. Hollow: two checkpoints, one seed per arm."
)


def draw_forest(comparisons: Sequence[Comparison]) -> list[Figure]:
    """Draw one block per metric, with its own scale and a line per comparison in the order given.

    Metrics share a figure as long as it stays within a printed page.
    """
    labels = label_comparisons(comparisons)
    blocks: dict[str, Block] = {}
    for label, one in zip(labels, comparisons, strict=True):
        blocks.setdefault(one.metric, []).append((label, one))
    pages: list[dict[str, Block]] = [{}]
    for metric, block in blocks.items():
        if pages[-1] and sum(map(len, pages[-1].values())) + len(block) > PAGE_LINES:
            pages.append({})
        pages[-1][metric] = block
    return [_draw_page(page, number) for number, page in enumerate(pages, start=1)]


def _draw_page(blocks: dict[str, Block], number: int) -> Figure:
    height = sum(0.19 * len(block) + 0.6 for block in blocks.values())
    with open_canvas(PAGE, max(1.3, height)) as canvas:
        ratios = [len(block) + 1 for block in blocks.values()]
        grid = canvas.subplots(len(blocks), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})
        for axes, (metric, block) in zip(grid.flat, blocks.items(), strict=True):
            _draw_block(axes, metric, block)
        title = "Differences from the baseline" + (f" ({number})" if number > 1 else "")
        return finish(canvas, f"differences_{number}", title=title, caption=CAPTION)


def _draw_block(axes: Axes, metric: str, block: Block) -> None:
    for place, (_, one) in enumerate(block):
        found, color = one.difference, COLORS.get(one.verdict, MUTED)
        axes.plot([found.low, found.high], [place, place], color=color, solid_capstyle="butt")
        inside = PAPER if found.about == "checkpoints" else color
        axes.plot(
            [found.value], [place], color=color, marker="o", markeredgecolor=color, markerfacecolor=inside
        )
    axes.axvline(0, color=INK, linewidth=0.8, zorder=0)
    title = title_of(metric)
    axes.set_title(capital(f"{title.removesuffix(' %')}, points" if title.endswith(" %") else title))
    axes.grid(visible=False)
    texts = [f"{_told(one)}   {one.verdict}" for _, one in block]
    _name_lines(axes, [label for label, _ in block])
    _name_lines(axes.twinx(), texts)


def _told(one: Comparison) -> str:
    return rounded(one.difference.value, one.difference.low, one.difference.high).replace("-", "−")


def _name_lines(axes: Axes, texts: Sequence[str]) -> None:
    axes.set_ylim(len(texts) - 0.4, -0.6)
    axes.set_yticks(range(len(texts)), texts)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
