"""Progress on stderr: a bar where a person looks on, nothing otherwise."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """A bar that appears with the first step told and starts anew when the total changes.

    Args:
        label: What is going on ("encoding").
        unit: What is counted ("image").
    """

    def __init__(self, label: str, unit: str) -> None:
        self._label, self._unit = label, unit
        self._bar: Any = None

    def __call__(self, done: int, total: int, remark: str = "") -> None:
        """Move the bar to `done` of `total`; `remark` stands behind it."""
        from tqdm import tqdm

        if self._bar is None or self._bar.total != total or done < self._bar.n:
            self.close()
            self._bar = tqdm(total=total, desc=self._label, unit=self._unit, file=sys.stderr, disable=None, leave=False, dynamic_ncols=True)
        if remark:
            self._bar.set_postfix_str(remark, refresh=False)
        self._bar.update(done - self._bar.n)

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
