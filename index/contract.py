"""The recall contract: first-stage settings are tuned on some queries, and what they find is measured on others.

Recall is counted against exact search over the vectors as stored: of the k best rows those that were found, or others that score
no worse. An index keeps the contract for one kind of query and one k where the lower end of the interval, not the mean, reaches
the target.

Settings are chosen on the tuning queries alone. Where the held-out queries then miss the target, stronger settings are measured
on the same queries again, which would make a lucky sample likelier: so each further look takes an interval of half the error
probability (95 %, 97.5 %, 98.75 %), and all looks together err on the low side in less than 5 of 100 indexes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, sqrt
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from index.askers import Rows, Sample
from index.exact import Found
from index.index_manifest import Certificate
from index.intervals import Interval, Shares, effective_trials, share_interval, two_sided, wilson_interval
from index.planner import SearchPlan, may_leave_out
from index.questions import Questions, ask_exactly
from index.standing import Standings

if TYPE_CHECKING:
    from index.vector_index import VectorIndex

KS = (10, 50)
LOOKS = 3
_COUNTS = (2, 3, 5, 10, 20, 30, 50, 100, 200, 400)  # times k: candidates
_MOST_CANDIDATES = 4000
_SCREENED = 100  # queries that show most settings to be too weak
_SCREEN_Z = 3.0
_MARGIN_Z = 0.5  # of the tuning sample: what is chosen because it is best looks better than it is
_TIMED, _COMPARED = 300, 60  # queries asked one by one
_STRONGER = 1.4


@dataclass(frozen=True, slots=True)
class _Setting:
    candidates: int
    effort: int | None


def certify(index: "VectorIndex", samples: Mapping[str, Sample], target: float, ks: Sequence[int] = KS) -> tuple[Certificate, ...]:
    """Tune an index and measure what it finds, for each kind of query and each k.

    Args:
        index: With its first stage; without one it is exact and needs no certificate, nor where it is while rows are removed.
        samples: "image" and "text" to queries (index.askers).
        target: The recall that the lower end of the interval shall reach, above 0, at most 1.
        ks: Numbers of hits.

    Returns:
        A certificate for each kind of query and k. One that is not met has the best settings there are, or says by its number of
        queries that so few cannot show the target: q queries without a miss show q / (q + 3.84).

    Raises:
        ValueError: If the target is not above 0 and at most 1.
        MedretError: If a stored vector is damaged.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target recall is {target}, expected above 0 and at most 1")
    if index.stage is None or not may_leave_out(index.kind, len(index.table.live_rows) / index.rows):
        return ()
    made = []
    for asker, sample in samples.items():
        tune = ask_exactly(index, sample.tune, sample.tune_own, asker, ks)
        held = ask_exactly(index, sample.held, sample.held_own, asker, ks)
        lists, most = index.stage.lists is not None, min(_MOST_CANDIDATES, index.rows)
        standings = Standings(index.stage, tune[max(ks)], most, index.table.live) if lists else None
        for k in ks:
            if len(tune[k]) and len(held[k]):
                made.append(_Tuner(index, asker, k, target, tune[k], held[k], standings).certify(sample.drawn))
    return tuple(made)


def most_recall_shown(queries: int) -> float:
    """Return the lower end of the interval where so many queries, above 0, find everything."""
    return wilson_interval(1.0, queries, two_sided(0.95)).low


class _Tuner:
    """Finds the cheapest setting for one kind of query and one k, and measures it."""

    def __init__(
        self, index: "VectorIndex", asker: str, k: int, target: float, tune: Questions, held: Questions, standings: Standings | None
    ) -> None:
        assert index.stage is not None
        self.index, self.asker, self.k, self.target = index, asker, k, target
        self.tune, self.held, self.standings = tune, held, standings
        self.grade = index.stage.kind.grade or 0.0
        counts = {min(times * k, _MOST_CANDIDATES, index.rows) for times in _COUNTS}
        self.counts = sorted(count for count in counts if count >= min(k, index.rows))
        self.efforts = _filling(index.stage.efforts(), index.stage.lists, index.rows, self.counts[0])
        self._passed: dict[_Setting, bool] = {}
        self._found: dict[_Setting, float] = {}  # mean share
        self._goal = min(target, self._foreseen(np.ones(len(tune))))

    def certify(self, drawn: str) -> Certificate:
        """Measure the cheapest setting that passes; then, for as many looks as are allowed, stronger ones until it is enough."""
        setting: _Setting | None = self._assured(self._cheapest(self._frontier()))
        measured: list[tuple[Interval, _Setting]] = []
        for look in range(LOOKS):
            assert setting is not None
            interval = share_interval(self._shares(self.held, setting), self.k, two_sided(1 - 0.05 / 2**look))
            measured.append((interval, setting))
            setting = self._stronger(setting)
            enough = interval.low >= self.target and interval.mean >= self.grade
            if enough or interval.mean == 1 or setting is None:  # where nothing is missed, only more queries would show more
                break
        met = [one for one in measured if one[0].low >= self.target]
        interval, setting = met[-1] if met else max(measured, key=lambda one: one[0].mean)
        return self._certificate(setting, interval, drawn)

    def _assured(self, setting: _Setting) -> _Setting:
        """The setting with twice the candidates where a grade is aimed at: a few queries cannot tell it from several times the misses."""
        if not self.grade:
            return setting
        needed = setting.candidates
        fewer = max((count for count in self.counts if count < needed), default=needed)
        middle = _Setting(round(sqrt(fewer * needed)), setting.effort)
        needed = middle.candidates if self._passes(middle) else needed
        return _Setting(min(2 * needed, self.counts[-1]), setting.effort)

    def _certificate(self, setting: _Setting, interval: Interval, drawn: str) -> Certificate:
        seconds = self._seconds(self.held.take(slice(_TIMED)), setting)
        return Certificate(
            asker=self.asker,
            k=self.k,
            target=self.target,
            recall=interval.mean,
            low=interval.low,
            high=interval.high,
            queries=len(self.held),
            drawn=drawn,
            candidates=setting.candidates,
            effort=setting.effort,
            p50_ms=round(float(np.percentile(seconds, 50)) * 1e3, 4),
            p99_ms=round(float(np.percentile(seconds, 99)) * 1e3, 4),
            met=interval.low >= self.target,
        )

    def _foreseen(self, shares: Shares) -> float:
        """The lower end that these tuning queries let one expect of the held-out ones, with some margin."""
        trials = effective_trials(shares, self.k)
        mean = wilson_interval(float(shares.mean()), trials, _MARGIN_Z).low
        return wilson_interval(mean, trials / len(shares) * len(self.held), two_sided(0.95)).low

    def _passes(self, setting: _Setting) -> bool:
        if setting not in self._passed:
            first = self._tuning_shares(slice(0, _SCREENED), setting)
            if share_interval(first, self.k, _SCREEN_Z).high < max(self._goal, self.grade):
                self._passed[setting], shares = False, first
            else:
                shares = np.concatenate([first, self._tuning_shares(slice(_SCREENED, None), setting)])
                self._passed[setting] = self._foreseen(shares) >= self._goal and float(shares.mean()) >= self.grade
            self._found[setting] = float(shares.mean())
        return self._passed[setting]

    def _frontier(self) -> list[_Setting]:
        """The settings that pass, of which none is weaker in both effort and candidates than another.

        Recall grows with both (but for noise), so that a staircase between what passes and what does not meets all of them. It
        begins beside the first setting on the diagonal that passes, so that dear ones need not be measured.
        """
        efforts, counts = self.efforts, self.counts
        steps = range(max(len(efforts), len(counts)))
        diagonal = [(min(step, len(efforts) - 1), min(step, len(counts) - 1)) for step in steps]
        start = next((place for place in diagonal if self._passes(_Setting(counts[place[1]], efforts[place[0]]))), None)
        if start is None:
            return [_Setting(counts[-1], efforts[-1])]
        effort, count, last = min(start[0] + 1, len(efforts) - 1), 0, min(start[1] + 2, len(counts) - 1)
        frontier: list[_Setting] = []
        while effort >= 0 and count <= last:
            if self._passes(_Setting(counts[count], efforts[effort])):
                frontier = [one for one in frontier if one.candidates != counts[count]] + [_Setting(counts[count], efforts[effort])]
                effort -= 1
            elif count > 0 and self._gain(efforts[effort], counts[count - 1], counts[count]) <= 0:
                break  # more candidates bring nothing at this effort
            else:
                count += 1
        return frontier or [_Setting(counts[start[1]], efforts[start[0]])]

    def _gain(self, effort: int | None, before: int, count: int) -> float:
        """What more candidates added to what was found, where both were tried; else something."""
        fewer, more = self._found.get(_Setting(before, effort)), self._found.get(_Setting(count, effort))
        return 1.0 if fewer is None or more is None else more - fewer

    def _cheapest(self, frontier: Sequence[_Setting]) -> _Setting:
        """The setting that answers fastest on average, its effort then lowered as far as it still passes."""
        some = self.tune.take(slice(_COMPARED))
        best = min(frontier, key=lambda one: self._seconds(some, one).mean()) if len(frontier) > 1 else frontier[0]
        place = self.efforts.index(best.effort)
        below, above = self.efforts[place - 1] if place else None, best.effort
        if below is None or above is None or not self._passed.get(best):
            return best
        for _ in range(2):
            middle = round(sqrt(below * above))
            if middle in (below, above):
                break
            if self._passes(_Setting(best.candidates, middle)):
                above = middle
            else:
                below = middle
        return _Setting(best.candidates, above)

    def _stronger(self, setting: _Setting) -> _Setting | None:
        """A setting with more effort and more candidates; None where there is none."""
        candidates = next((count for count in self.counts if count > setting.candidates), setting.candidates)
        most, effort = self.efforts[-1], setting.effort
        if effort is not None and most is not None:
            effort = min(ceil(effort * _STRONGER), most)
        stronger = _Setting(candidates, effort)
        return None if stronger == setting else stronger

    def _tuning_shares(self, part: slice, setting: _Setting) -> Shares:
        """As `_shares` of some tuning queries; of inverted lists, one search tells it for all numbers of candidates."""
        questions = self.tune.take(part)
        if self.standings is None or not len(questions):
            return self._shares(questions, setting)
        shares = self.standings.find(part, setting.effort).shares(self.k, max(setting.candidates, self.k))
        if tied := np.flatnonzero(questions.tied).tolist():
            shares[tied] = self._shares(questions.take(tied), setting)
        return shares

    def _shares(self, questions: Questions, setting: _Setting) -> Shares:
        """Of each query's right answers the share that is found, (Q,) float64.

        Queries that leave out equally many rows are asked together: as many more candidates are taken for all of a batch as one
        of it leaves out, and none shall have more of them here than when it is asked alone.
        """
        shares = np.empty(len(questions))
        for places in _alike(questions.own):
            part = questions.take(places)
            found = self.index.search(part.vectors, self.k, asker=self.asker, excluded=part.own, plan=self._plan(setting))
            shares[places] = _count_right(found, part) / part.wanted
        return shares

    def _seconds(self, questions: Questions, setting: _Setting) -> Shares:
        """Seconds of each query, asked alone, after one to warm up."""
        plan = self._plan(setting)
        seconds = []
        for place in [0, *range(len(questions))]:
            vector, own = questions.vectors[place : place + 1], [questions.own[place]]
            start = perf_counter()
            self.index.search(vector, self.k, asker=self.asker, excluded=own, plan=plan)
            seconds.append(perf_counter() - start)
        return np.array(seconds[1:])

    def _plan(self, setting: _Setting) -> SearchPlan:
        rows = self.index.rows
        return SearchPlan(
            how="approximate",
            kind=self.index.kind.name,
            candidates=setting.candidates,
            effort=setting.effort,
            allowed_rows=rows,
            rows=rows,
            reason="being measured",
        )


def _filling(efforts: Sequence[int | None], lists: int | None, rows: int, candidates: int) -> Sequence[int | None]:
    """The efforts whose inverted lists hold the candidates on average.

    With fewer, most queries come back short and are searched exactly: that finds everything, tells nothing of the lists, and a
    little more effort would find less.
    """
    if lists is None:
        return efforts
    return [effort for effort in efforts if effort is None or effort == lists or effort * rows >= candidates * lists]


def _alike(own: Sequence[Rows]) -> Iterator[list[int]]:
    """Yield the places of queries that leave out equally many rows."""
    order = sorted(range(len(own)), key=lambda place: len(own[place]))
    for _, places in groupby(order, key=lambda place: len(own[place])):
        yield list(places)


def _count_right(found: Sequence[Found], questions: Questions) -> Rows:
    right = [int((scores >= bound).sum()) for (_, scores), bound in zip(found, questions.bounds, strict=True)]
    return np.minimum(np.array(right, dtype=np.int64), questions.wanted)
