"""The scaling curves as pictures, one for each curve."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stress.bench.row import Row


def draw(rows: Iterable[Row], directory: Path) -> None:
    """Draws each curve that has points into a file of its name."""
    import matplotlib as mpl  # of the extra `bench`, for plots only

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "hypotest"  # the same figures give the same file
    from matplotlib import pyplot as plt

    curves: dict[str, dict[str, list[tuple[float, Row]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.curve and row.x is not None:
            curves[row.curve][row.line].append((row.x, row))
    directory.mkdir(parents=True, exist_ok=True)
    for curve, lines in curves.items():
        figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
        for label, points in lines.items():
            axes.plot([x for x, _ in points], [row.value for _, row in points], marker="o", label=label)
        what, _, over = curve.rpartition(" by ")
        every = [point for points in lines.values() for point in points]
        axes.set(title=what or curve, xlabel=over, ylabel=every[0][1].unit, xscale="log", ylim=(0, None))
        ticks = sorted({x for x, _ in every})
        axes.set_xticks(ticks, [f"{x:,.0f}" for x in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(directory / f"{curve.replace(' ', '-')}.svg", metadata={"Date": None})
        plt.close(figure)
