"""How the scores of random pairs spread: what tells how rare a cosine of 0.31 is in this index, by this encoder.

Cosines of two films lie far above those of a film and a text, and every encoder spreads both in its own way, so that a score says
little by itself. Beside it stands its percentile: the share of random pairs, of different patients, that score less.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from index.askers import Askers
    from index.shards import ShardTable

ASKERS, ROWS = 1000, 2000
LEVELS = (
    *(0.0, 1e-4, 1e-3, 5e-3),
    *(step / 100 for step in range(1, 99)),
    *(round(1 - 10 ** (-step / 10), 9) for step in range(20, 61)),  # 0.99 to 0.999999: answers lie in the upper tail
)
_FEWEST = 20  # pairs: fewer tell nothing
_DIGITS = 7  # of a stored score: float32 has no more


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreScale:
    """The cosines of random pairs: one who asks, and a row of the index that is not of the same patient.

    Attributes:
        asker: Who asks: "image", "text", or "phrase": a few words, where texts are reports or sentences of the index.
        drawn: Where the askers come from, for the reader: "images", "reports", "sentences" or "prompts".
        pairs: How many there were.
        mean: Of their cosines; `deviation` is the standard deviation, above 0.
        quantiles: Their quantiles at LEVELS, ascending.
    """

    asker: str
    drawn: str
    pairs: int
    mean: float
    deviation: float
    quantiles: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.quantiles) != len(LEVELS) or not (np.diff(self.quantiles) >= 0).all():
            raise ValueError(f"{len(self.quantiles)} quantiles of scores, expected {len(LEVELS)}, ascending")
        if self.pairs < 1 or not self.deviation > 0:
            raise ValueError(f"scores of {self.pairs} pairs deviate by {self.deviation}, expected more than 0")

    def percentile(self, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the percentage of random pairs that score less than each score, (n,) float64 in [0, 100].

        Between the quantiles that are stored it is interpolated; a score above all of n pairs has 100 n / (n + 1), and none has more.

        Args:
            scores: (n,) cosines.
        """
        asked = np.asarray(scores, np.float64)
        quantiles, firsts = np.unique(self.quantiles, return_index=True)  # of a score that many pairs share, those below count
        levels = np.where(asked > quantiles[-1], 1.0, np.interp(asked, quantiles, np.array(LEVELS)[firsts]))
        return 100 * np.minimum(levels, self.pairs / (self.pairs + 1))

    def score(self, percentile: float) -> float:
        """Return the cosine that this percentage of random pairs, 0 to 100, stays below."""
        return float(np.interp(percentile / 100, LEVELS, self.quantiles))


def measure_scales(table: "ShardTable", vector: str, askers: Mapping[str, "Askers"]) -> tuple[ScoreScale, ...]:
    """Measure the scores of random pairs, for each kind of asker.

    Args:
        table: What is searched; of its live rows 2,000 are drawn, or all.
        vector: "joint" or "features".
        askers: "image", "text" and "phrase" to who asks; the first 1,000 do.

    Returns:
        A scale for each; none where there are fewer than 20 pairs, or all score alike.
    """
    live = table.live_rows
    rows = np.sort(np.random.default_rng([0, 3]).choice(live, min(ROWS, len(live)), replace=False))
    vectors = table.vectors(vector, rows)
    made = []
    for asker, asking in askers.items():
        scores = asking.vectors[:ASKERS] @ vectors.T  # (A, R)
        others = np.array([~np.isin(rows, own) for own in asking.own[:ASKERS]]).reshape(scores.shape)
        if (scale := _scale(asker, asking.drawn, scores[others].astype(np.float64))) is not None:
            made.append(scale)
    return tuple(made)


def _scale(asker: str, drawn: str, scores: npt.NDArray[np.float64]) -> ScoreScale | None:
    if len(scores) < _FEWEST or (deviation := round(float(scores.std()), _DIGITS)) == 0:
        return None
    quantiles = tuple(round(float(score), _DIGITS) for score in np.quantile(scores, LEVELS))
    mean = round(float(scores.mean()), _DIGITS)
    return ScoreScale(asker=asker, drawn=drawn, pairs=len(scores), mean=mean, deviation=deviation, quantiles=quantiles)
