"""A first stage that is opened when it is first needed: a process that asks one thing is done by exact search before that."""

import itertools
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from index.exact import Rows
from index.kinds import IndexKind
from index.stages import FirstStage

MOST_BYTES = 4 << 30  # of stored vectors: two cores compare that many in half a second where the system has them in memory


class LateStage:
    """Stands for a first stage that FAISS searches, and opens it when more than one query comes.

    Importing FAISS, hashing the file and reading it take longer than one exact search in the mapped vectors.

    Args:
        kind: Of the stage.
        rows: How many it holds.
        load: Opens it; raises MedretError if a file is missing or damaged.
    """

    def __init__(self, kind: IndexKind, rows: int, load: Callable[[], FirstStage]) -> None:
        self.kind, self.rows = kind, rows
        self._load, self._opening = load, threading.Lock()
        self._stage: FirstStage | None = None
        self._planned = itertools.count()

    def may_wait(self) -> bool:
        """Whether the search that is being planned is the first, so that it is not worth opening the stage."""
        return next(self._planned) == 0 and self._stage is None

    @property
    def stage(self) -> FirstStage:
        """The stage itself."""
        with self._opening:
            if self._stage is None:
                self._stage = self._load()
            return self._stage

    @property
    def lists(self) -> int | None:
        """Its inverted lists, or None."""
        return self.stage.lists

    def candidates(
        self, queries: npt.NDArray[np.float32], count: int, effort: int | None, allowed: npt.NDArray[np.bool_] | None
    ) -> list[Rows]:
        """Return likely rows, see index.stages.FirstStage."""
        return self.stage.candidates(queries, count, effort, allowed)

    def add(self, vectors: Iterable[npt.NDArray[np.float32]]) -> None:
        """Append rows, see index.stages.FirstStage."""
        self.stage.add(vectors)
        self.rows = self.stage.rows

    def save(self, folder: Path, name: str) -> list[str]:
        """Write the stage, see index.stages.FirstStage."""
        return self.stage.save(folder, name)

    def efforts(self) -> tuple[int | None, ...]:
        """Return the settings to tune over, see index.stages.FirstStage."""
        return self.stage.efforts()

    def read_ahead(self) -> None:
        """Read mapped files ahead, see index.stages.FirstStage."""
        self.stage.read_ahead()


def is_worth_waiting(kind: IndexKind, rows: int, dimension: int) -> bool:
    """Whether one exact search is quicker than opening a stage of this kind: where FAISS is not imported and the rows are not too many."""
    return kind.factory is not None and "faiss" not in sys.modules and rows * dimension * 4 <= MOST_BYTES
