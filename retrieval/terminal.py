"""Progress on stderr: a bar where a person looks on, a line a minute otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from retrieval.index_tables import duration

_EVERY = 60.0  # seconds between two lines


class Progress:
    """A bar that appears with the first step told and starts anew when the total changes; lines where stderr is no terminal.

    Args:
        label: What is going on ("encoding").
        unit: What is counted ("image").
        clock: Seconds since whenever.
    """

    def __init__(self, label: str, unit: str, clock: Callable[[], float] = monotonic) -> None:
        self._label, self._unit, self._clock = label, unit, clock
        self._bar: Any = None
        self._first = self._last = (0, 0)  # steps done, and of how many
        self._began = self._told = 0.0

    def __call__(self, done: int, total: int, remark: str = "") -> None:
        """Move the bar to `done` of `total`; `remark` stands behind it."""
        if not total:  # the share of a process among many
            return
        if not sys.stderr.isatty():
            self._tell(done, total, remark)
            return
        from tqdm import tqdm

        if self._bar is None or self._bar.total != total or done < self._bar.n:
            self.close()
            self._bar = tqdm(total=total, initial=done, desc=self._label, unit=self._unit, file=sys.stderr, leave=False, dynamic_ncols=True)
        if remark:
            self._bar.set_postfix_str(remark, refresh=False)
        self._bar.update(done - self._bar.n)

    def _tell(self, done: int, total: int, remark: str) -> None:
        now = self._clock()
        if total != self._last[1] or done < self._last[0]:
            self._first, self._began, self._told = (done, total), now, now
        self._last = done, total
        if now - self._told < _EVERY:
            return
        self._told = now
        rate = (done - self._first[0]) / (now - self._began)
        left = f", {rate:.3g} {self._unit}/s, about {duration((total - done) / rate)} left" if rate else ""
        self.say(f"{self._label}: {f'{remark}: ' if remark else ''}{done:,} of {total:,}{left}")

    def stage(self, what: str, done: int, total: int) -> None:
        """Move the bar to `done` of `total` of one stage of the work, which `what` names."""
        self(done, total, what)

    def say(self, line: str) -> None:
        """Write a line to stderr, above the bar."""
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Progress]:
    """Yield a Progress that is taken away at the end, whatever happens."""
    progress = Progress(label, unit)
    try:
        yield progress
    finally:
        progress.close()
