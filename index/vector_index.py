"""Search over one kind of vector of one modality: planned, proposed by a first stage, ranked by the vectors in the shards."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from encoders.errors import MedretError
from index.exact import MOST_EXCLUDED, ExactSearch, Found, Rows, Scores, most_excluded, queries_at_once
from index.index_manifest import Certificate
from index.kinds import KINDS, load_faiss
from index.late_stage import LateStage
from index.planner import SearchPlan, exact_plan, plan_search
from index.score_scale import ScoreScale
from index.shards import ShardTable
from index.stages import FirstStage
from index.unit_vectors import fetch_units

_VALUES_AT_ONCE = 1 << 18  # of vectors in float32: what is scored at a time stays in the processor's cache
_WORTH_THREADS = 8  # parts of so many values: fewer are scored in the time that threads take to start

Mask = npt.NDArray[np.bool_]


class VectorIndex:
    """Inner-product search over the rows of one table.

    Args:
        table: The rows; those that are not `table.live` are never found.
        vector: "joint" or "features".
        stage: What proposes candidates; None for exact search alone.
        certificates: What was measured when the index was built: only settings they name are searched with.
        scales: How its scores spread, likewise measured.
    """

    def __init__(
        self,
        table: ShardTable,
        vector: str,
        stage: FirstStage | None = None,
        certificates: Sequence[Certificate] = (),
        scales: Sequence[ScoreScale] = (),
    ) -> None:
        if stage is not None and stage.rows != table.rows:
            raise MedretError(f"the {stage.kind.name} index holds {stage.rows} rows, its shards {table.rows}. Run medret build-index again")
        self.table, self.vector, self.stage, self.certificates = table, vector, stage, tuple(certificates)
        self.scales = tuple(scales)
        self.exact = ExactSearch(table, vector)
        self.kind = KINDS["flat"] if stage is None else stage.kind
        self.rows, self.dimension = table.rows, self.exact.dimension
        self._live: Mask | None = table.live

    def read_ahead(self) -> None:
        """Have what the first search compares read in the background, where that is all vectors."""
        if self.stage is None or isinstance(self.stage, LateStage):
            self.table.read_ahead(self.vector)

    def scale(self, asker: str) -> ScoreScale | None:
        """Return how the scores of random pairs spread, for "image", "text" or "phrase" queries; None where it was not measured.

        A phrase is a text where phrases were not measured by themselves.
        """
        measured = {scale.asker: scale for scale in self.scales}
        return measured.get(asker, measured.get("text") if asker == "phrase" else None)

    def plan(self, k: int, *, asker: str, allowed_rows: int | None = None) -> SearchPlan:
        """Return how a search would run, see index.planner."""
        if isinstance(self.stage, LateStage) and self.stage.may_wait():
            live = self.rows if self._live is None else int(np.count_nonzero(self._live))
            because = f"one query is quicker so than by opening {self.kind.name}"
            return exact_plan(self.kind.name, self.rows, live if allowed_rows is None else allowed_rows, because)
        lists = None if self.stage is None else self.stage.lists
        live_rows = None if self._live is None else int(np.count_nonzero(self._live))
        return plan_search(self.kind, self.rows, self.dimension, k, asker, allowed_rows, self.certificates, lists, live_rows)

    def search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        asker: str = "image",
        allowed: Mask | None = None,
        excluded: Sequence[Rows] | None = None,
        plan: SearchPlan | None = None,
    ) -> list[Found]:
        """Return the k best rows of each query: exactly, or as well as the certificates say.

        Args:
            queries: (Q, D) float32, unit L2 norm per row for scores that are cosines.
            k: Above 0; may exceed the number of rows.
            asker: "image" or "text": what the queries are.
            allowed: (rows,) bool, the rows that may be found; all by default.
            excluded: Q arrays of rows that the query of that place must not find.
            plan: How to search; by default as `plan` says.

        Returns:
            Per query: rows int64 and scores float32, ordered by score descending, then id ascending. The same two vectors
            have the same score, whichever way they were found. Fewer than k only where there are fewer.

        Raises:
            ValueError: If the queries are not (Q, D) or not finite, k is not positive, or `allowed` or `excluded` do not fit.
            MedretError: If a stored vector is damaged.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        self.exact.check(queries, k, allowed, excluded)
        if self._live is not None:
            allowed = self._live if allowed is None else allowed & self._live
        allowed_rows = self.rows if allowed is None else int(np.count_nonzero(allowed))
        if plan is None:
            plan = self.plan(k, asker=asker, allowed_rows=allowed_rows)
        if plan.how == "exact" or self.stage is None or len(queries) == 0:
            return self.exact.search(queries, k, allowed=allowed, excluded=excluded)
        if allowed_rows == self.rows:
            allowed = None
        found: list[Found] = []
        at_once = queries_at_once(max(plan.candidates, k))
        for start in range(0, len(queries), at_once):
            part = slice(start, start + at_once)
            found += self._search(queries[part], k, plan, allowed, allowed_rows, None if excluded is None else excluded[part])
        return found

    def _search(
        self,
        queries: npt.NDArray[np.float32],
        k: int,
        plan: SearchPlan,
        allowed: Mask | None,
        allowed_rows: int,
        excluded: Sequence[Rows] | None,
    ) -> list[Found]:
        if excluded is not None and not any(map(len, excluded)):
            excluded = None
        left_out = [] if excluded is None else [np.unique(np.asarray(rows, np.int64)) for rows in excluded]
        found, unconfirmed = self._approximate(queries, k, plan, allowed, left_out)
        places = sorted({*unconfirmed, *self._short(found, k, allowed, allowed_rows, left_out)})
        if places:
            own = None if excluded is None else [left_out[place] for place in places]
            for place, answer in zip(places, self.exact.search(queries[places], k, allowed=allowed, excluded=own), strict=True):
                found[place] = answer
        return found

    def _approximate(
        self, queries: npt.NDArray[np.float32], k: int, plan: SearchPlan, allowed: Mask | None, left_out: Sequence[Rows]
    ) -> tuple[list[Found], list[int]]:
        """Return the best of the candidates of each query, and the queries whose answer is not confirmed, where it has to be."""
        assert self.stage is not None
        proposed = self.stage.candidates(queries, max(plan.candidates, k) + most_excluded(left_out), plan.effort, allowed)
        owners = np.repeat(np.arange(len(queries)), [len(rows) for rows in proposed])
        rows = np.concatenate(proposed)
        if left_out:
            kept = ~np.isin(owners * self.rows + rows, np.concatenate([own + place * self.rows for place, own in enumerate(left_out)]))
            owners, rows = owners[kept], rows[kept]
        found = self._rank(queries, k, owners, rows)
        if not plan.checked:
            return found, []
        unconfirmed = set()
        for place, ((best, _), own) in enumerate(zip(found, proposed, strict=True)):
            first = max(plan.candidates // 4, k) + (len(left_out[place]) if left_out else 0)
            if len(own) < plan.allowed_rows and not np.isin(best, own[:first]).all():
                unconfirmed.add(place)
        if plan.confirmed_by is not None:
            again, _ = self._approximate(queries, k, replace(plan, effort=plan.confirmed_by, checked=False), allowed, left_out)
            pairs = zip(found, again, strict=True)
            unconfirmed |= {place for place, ((best, _), (other, _)) in enumerate(pairs) if not np.array_equal(best, other)}
        return found, sorted(unconfirmed)

    def _short(self, found: list[Found], k: int, allowed: Mask | None, allowed_rows: int, left_out: Sequence[Rows]) -> list[int]:
        """Return the queries that found fewer rows than there are to find, or leave out too many for the candidates to suffice."""
        short = []
        for place, (rows, _) in enumerate(found):
            own = left_out[place] if left_out else None
            if own is not None and len(own) > MOST_EXCLUDED:
                short.append(place)
            elif len(rows) < k:
                hidden = 0 if own is None else len(own) if allowed is None else int(allowed[own].sum())
                if len(rows) < min(k, allowed_rows - hidden):
                    short.append(place)
        return short

    def _rank(self, queries: npt.NDArray[np.float32], k: int, owners: Rows, rows: Rows) -> list[Found]:
        """Return the k best of the candidates of each query; candidates are pairs of a query's place and a row."""
        if len(queries) == 1:
            return [self._rank_one(queries, k, rows)]
        scores = self._estimate(queries, owners, rows)
        order = np.lexsort((-scores, owners))
        owners, rows, scores = owners[order], rows[order], scores[order]
        starts = np.searchsorted(owners, np.arange(len(queries) + 1))
        last = np.minimum(starts[:-1] + k, starts[1:]) - 1  # of each query, its k-th best
        bounds = scores[np.maximum(last, 0)] if len(scores) else np.zeros(len(queries), np.float32)
        bounds = bounds - 2 * self.exact.rounding(queries)
        kept = scores >= bounds[owners]
        owners, rows = owners[kept], rows[kept]
        return self._order(k, len(queries), owners, rows, self.exact.score(queries, owners, rows))

    def _rank_one(self, query: npt.NDArray[np.float32], k: int, rows: Rows) -> Found:
        """Do the same for a single query, (1, D), whose vectors are few enough to be fetched at once and kept."""
        vectors = fetch_units(self.table, self.vector, rows)
        scores = vectors @ query[0]
        if len(rows) > k:
            bound = np.partition(scores, len(rows) - k)[len(rows) - k] - 2 * self.exact.rounding(query)
            kept = np.flatnonzero(scores >= bound)
            rows, vectors = rows[kept], vectors[kept]
        return self.exact.best(rows, (vectors * query.astype(np.float64)).sum(axis=1).astype(np.float32), k)

    def _order(self, k: int, queries: int, owners: Rows, rows: Rows, scores: Scores) -> list[Found]:
        order = np.lexsort((-scores, owners))
        owners, rows, scores = owners[order], rows[order], scores[order]
        starts = np.searchsorted(owners, np.arange(queries + 1)).tolist()
        tied = np.zeros(queries, bool)
        tied[owners[1:][(scores[1:] == scores[:-1]) & (owners[1:] == owners[:-1])]] = True
        found: list[Found] = []
        for place, (start, stop) in enumerate(pairwise(starts)):
            if tied[place]:
                found.append(self.exact.best(rows[start:stop], scores[start:stop], k))
            else:
                stop = min(stop, start + k)
                found.append((rows[start:stop], scores[start:stop]))
        return found

    def _estimate(self, queries: npt.NDArray[np.float32], owners: Rows, rows: Rows) -> Scores:
        """Return the float32 scores of pairs, computed in float32."""
        scores = np.empty(len(rows), np.float32)
        at_once = max(_VALUES_AT_ONCE // self.dimension, 1)
        order = np.argsort(rows)  # neighbours in the file one after the other, and a row that many queries found only once
        parts = [order[start : start + at_once] for start in range(0, len(rows), at_once)]

        def estimate(places: Rows) -> None:
            scores[places] = np.einsum("ij,ij->i", fetch_units(self.table, self.vector, rows[places]), queries[owners[places]])

        if len(parts) < _WORTH_THREADS:
            for places in parts:
                estimate(places)
        else:
            with ThreadPoolExecutor(load_faiss().omp_get_max_threads()) as pool:
                list(pool.map(estimate, parts))
        return scores
