"""Progress where nobody looks on: lines in the log of a batch job."""

from retrieval.terminal import Progress


def test_without_a_terminal_progress_is_a_line_a_minute_with_rate_and_time_left(capsys):
    """Told every 10 s of 20 more rows from row 1,000 on: 2 a second."""
    seconds = iter(range(0, 140, 10))
    progress = Progress("encoding", "row", clock=lambda: next(seconds))

    for step in range(14):
        progress(1000 + 20 * step, 2000, "images")

    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "encoding: images: 1,120 of 2,000, 2 row/s, about 7 min left",
        "encoding: images: 1,240 of 2,000, 2 row/s, about 6 min left",
    ]


def test_of_no_work_nothing_is_told(capsys):
    """The share of a process among more of them than there are shards."""
    Progress("encoding", "row", clock=lambda: 1000.0)(0, 0, "images")

    assert capsys.readouterr().err == ""


def test_a_new_stage_is_counted_anew(capsys):
    seconds = iter([0, 50, 55, 110, 115])
    progress = Progress("indexing", "index", clock=lambda: next(seconds))

    for done, total in [(1, 10), (9, 10), (0, 4), (0, 4), (0, 4)]:
        progress.stage("certifying", done, total)

    assert capsys.readouterr().err.splitlines() == ["indexing: certifying: 0 of 4"]
