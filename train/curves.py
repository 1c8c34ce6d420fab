"""A run's validations as a table, and as a picture of its learning curves."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from encoders.atomic import whole_file

Row = Mapping[str, float]
LEADING = ("step", "epoch", "lr", "train_loss", "validation_loss")
TRAILING = ("seconds", "images_per_second", "waiting")
LEARNED = "temperature"  # in every row, or in none where it is fixed


def write_metrics(rows: Sequence[Row], path: Path) -> None:
    """Write one line per validation: step, epoch, rate, losses (nats), metrics, a learned temperature, seconds since the start.

    Last come the images a second since the validation before, and the share of that time spent waiting for data.

    Args:
        rows: Column to number, equal columns in every row.
        path: The CSV file, replaced as a whole.
    """
    columns = [*LEADING, *metric_names(rows), *([LEARNED] if any(LEARNED in row for row in rows) else []), *TRAILING]
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows)


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Draw the losses, the validation metrics, the learning rate and, where it is learned, the temperature over the steps.

    Args:
        rows: As for `write_metrics`.
        path: The PNG file, replaced as a whole.
    """
    steps = [row["step"] for row in rows]
    names = metric_names(rows)
    groups: list[tuple[str, Sequence[str]]] = [
        ("loss, nats", LEADING[3:]),
        *([("validation" if names[1:] else names[0], names)] if names else []),
        ("learning rate", ["lr"]),
        *([(LEARNED, [LEARNED])] if any(LEARNED in row for row in rows) else []),
    ]
    figure = Figure(figsize=(5 * len(groups), 3.6))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.14, top=0.91, wspace=0.18)  # a layout engine takes twice as long
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for panel, (title, columns) in zip(panels, groups, strict=True):
        for name in columns:
            panel.plot(steps, [row.get(name, float("nan")) for row in rows], marker=".", label=name.replace("_", " "))
        panel.set(title=title, xlabel="step")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        panel.grid(alpha=0.3)
        if len(columns) > 1:
            panel.legend(fontsize="small")
    with whole_file(path) as beside:
        figure.savefig(beside, format="png", dpi=120)


def metric_names(rows: Sequence[Row]) -> list[str]:
    """The columns that the validation callback brought, in its order."""
    fixed = {*LEADING, *TRAILING, LEARNED}
    return list(dict.fromkeys(name for row in rows for name in row if name not in fixed))
