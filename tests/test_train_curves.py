import csv

from PIL import Image

from train.curves import draw_curves, metric_names, write_metrics

ROWS = [
    {"step": step, "epoch": step / 10, "lr": 1e-3, "train_loss": 4.0 / step, "validation_loss": 4.2 / step, "P@5": 0.1 * step, "R@10": 0.2}
    | {"seconds": 3.5 * step, "images_per_second": 123.456789, "waiting": 0.01}
    for step in range(1, 6)
]


def test_metrics_are_a_line_per_validation_with_the_callbacks_columns_between_losses_and_times(tmp_path):
    write_metrics(ROWS, tmp_path / "metrics.csv")

    with (tmp_path / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    leading = ["step", "epoch", "lr", "train_loss", "validation_loss"]
    assert list(lines[0]) == [*leading, "P@5", "R@10", "seconds", "images_per_second", "waiting"]
    assert [int(line["step"]) for line in lines] == [1, 2, 3, 4, 5]
    assert float(lines[2]["P@5"]) == 0.3
    assert list(tmp_path.iterdir()) == [tmp_path / "metrics.csv"]


def test_a_learned_temperature_has_a_column_of_its_own_and_is_no_metric(tmp_path):
    rows = [{**row, "temperature": 0.07} for row in ROWS]
    write_metrics(rows, tmp_path / "metrics.csv")

    assert (tmp_path / "metrics.csv").read_text().splitlines()[0].endswith(",R@10,temperature,seconds,images_per_second,waiting")
    assert metric_names(rows) == ["P@5", "R@10"]


def test_curves_are_a_picture_with_a_panel_for_the_metrics_only_where_there_are_some(tmp_path):
    bare = [{key: value for key, value in row.items() if "@" not in key} for row in ROWS]
    draw_curves(ROWS, tmp_path / "with.png")
    draw_curves(bare, tmp_path / "without.png")

    with Image.open(tmp_path / "with.png") as picture, Image.open(tmp_path / "without.png") as narrower:
        assert picture.format == "PNG"
        assert picture.width == 1.5 * narrower.width
        assert len(picture.convert("RGB").getcolors(10**6)) > 50


def test_a_single_validation_and_a_loss_that_is_not_a_number_can_be_drawn(tmp_path):
    draw_curves([{**ROWS[0], "validation_loss": float("nan")}], tmp_path / "curves.png")

    assert (tmp_path / "curves.png").stat().st_size > 1000
