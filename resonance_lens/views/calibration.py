"""The page of the docs that says how often the tests are wrong: a table between markers, and a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resonance_lens.calibration import LEVELS, Calibration, Cell, least, most
from resonance_lens.errors import ResultError
from resonance_lens.files import write_text
from resonance_lens.stats.inference import LEVEL
from resonance_lens.views.figures import WIDTH, save, style
from resonance_lens.views.theme import LIGHT, Theme
from resonance_lens.worlds import WORLDS

BEGIN, END = "<!-- table: made by make calibration -->", "<!-- end of table -->"
PICTURE = "images/calibration.svg"


def write_page(records: Sequence[Calibration], docs: Path) -> None:
    """Write the figure, and the table between the markers of ``calibration.md``.

    Parameters
    ----------
    records
        One for each analysis, in the order to show them in.
    docs
        The folder of the page.

    Raises
    ------
    ResultError
        If there is no such page, or it has no markers.
    """
    page = docs / "calibration.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ResultError(f"{page} has no place for the table: a line {BEGIN!r} and below it {END!r}.")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    write_text(page, f"{before}{BEGIN}\n\n{tables(records)}\n{END}{after}")
    save(draw(records), docs / PICTURE)


def tables(records: Sequence[Calibration]) -> str:
    """Return one table in Markdown for each record; what fails stands in bold."""
    return "\n".join("\n".join(_table(record)) + "\n" for record in records)


def _table(record: Calibration) -> Iterator[str]:
    strengths = record.strengths
    yield f"### `{record.analysis}`, version {record.version}"
    yield ""
    problems = record.problems()
    verdict = "Calibrated." if not problems else "**Not calibrated:** " + "; ".join(problems) + "."
    trials = sorted({cell.trials for cell in record.cells})
    yield f"{verdict} {' or '.join(map(str, trials))} trials of each world and strength, seed {record.seed}."
    yield ""
    heads = ["family", "places", "world", *(f"p ≤ {level:g}" for level in LEVELS), f"some q ≤ {LEVEL:g}"]
    heads += [*(f"found at {strength:g}" for strength in strengths), "false of found", "covered"]
    yield f"| {' | '.join(heads)} |"
    yield "| --- |" + " --- |" * (len(heads) - 1)
    for cell in record.cells:
        if cell.strength == 0:
            yield _row(record, cell)
    yield ""


def _row(record: Calibration, null: Cell) -> str:
    same = (null.variable, null.world, dict(null.along))
    plants = [c for c in record.cells if (c.variable, c.world, dict(c.along)) == same and c.strength > 0]
    plants.sort(key=lambda cell: cell.strength)
    which = ", ".join([f"`{null.variable}`", *null.along.values()])
    row = [which, str(null.places), null.world]
    row += [_rate(n, null.trials, level) for n, level in zip(null.reached, LEVELS, strict=True)]
    row.append(_rate(null.family, null.trials, LEVEL))
    row += [f"{plant.found:.2f}" for plant in plants]
    row.append(f"{max((plant.false / plant.trials for plant in plants), default=0.0):.3f}")
    row.append("" if null.covered is None else f"{null.covered:.3f}")
    return f"| {' | '.join(row)} |"


def _rate(count: int, trials: int, rate: float) -> str:
    share = f"{count / trials:.3f}"
    if count > most(rate, trials):
        return f"**{share}**"
    return f"*{share}*" if count < least(rate, trials) else share


def draw(records: Sequence[Calibration], theme: Theme = LIGHT) -> Figure:
    """Return rates under the null beside what they may be, and power, one row for each analysis."""
    with style(theme):
        figure = Figure(figsize=(WIDTH, 0.5 + 1.75 * len(records)), layout="constrained")
        axes = figure.subplots(len(records), 2, squeeze=False, width_ratios=(3, 2))
        for (left, right), record in zip(axes, records, strict=True):
            _rates(left, record, theme)
            _power(right, record, theme)
        axes[0, 0].legend(loc="upper left", frameon=False, ncols=2)
        axes[0, 1].legend(loc="lower right", frameon=False)
        axes[-1, 1].set_xlabel("strength of the plant")
    return figure


def _rates(axes: Axes, record: Calibration, theme: Theme) -> None:
    cells = [cell for cell in record.cells if cell.strength == 0]
    trials = max(cell.trials for cell in cells)
    axes.axhspan(
        least(LEVEL, trials) / trials, most(LEVEL, trials) / trials, color=theme.grid, label="by chance"
    )
    axes.axhline(LEVEL, color=theme.null, linewidth=0.8)
    for kind, marker, color in (("p", "o", theme.series[0]), ("q", "s", theme.series[1])):
        label = f"p ≤ {LEVEL:g}" if kind == "p" else f"some q ≤ {LEVEL:g}"
        at, rates = [], []
        for world, name in enumerate(WORLDS):
            here = [cell for cell in cells if cell.world == name]
            for which, cell in enumerate(here):
                at.append(world + 0.5 * ((which + 0.5) / len(here) - 0.5) + (0.06 if kind == "q" else -0.06))
                count = cell.family if kind == "q" else cell.reached[LEVELS.index(LEVEL)]
                rates.append(count / cell.trials)
        axes.plot(at, rates, marker, color=color, markersize=4, label=label)
    axes.set_xticks(range(len(WORLDS)), WORLDS)
    axes.set_ylim(0, max(0.13, *axes.get_ylim()))
    axes.set_title(record.analysis, loc="left")
    axes.set_ylabel("share of trials")


def _power(axes: Axes, record: Calibration, theme: Theme) -> None:
    for color, world in zip(theme.series, WORLDS, strict=False):
        points = []
        for strength in record.strengths:
            found = [c.found for c in record.cells if (c.world, c.strength) == (world, strength)]
            points.append(min(share for share in found if share is not None))
        axes.plot(record.strengths, points, "o-", color=color, markersize=3, label=world)
    axes.set_ylim(0, 1.05)
    axes.set_xticks(record.strengths)
    axes.set_ylabel("share found")
