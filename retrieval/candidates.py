"""What may answer a query: the records that its conditions leave, without those that show what must not be there."""

import threading
from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from index.corpora.record import NULL_LABEL, LabelState
from retrieval.answers import Query
from retrieval.columns import plain_name
from retrieval.filters import EVERYTHING, Selection

if TYPE_CHECKING:
    from index.shards import ShardTable

_KEPT = 16  # masks, a byte a row each
_LIKE = 0.1  # of all live rows: those are taken to show a text that are most like it

Mask = NDArray[np.bool_]
EncodeTexts = Callable[[Sequence[str], str], NDArray[np.float32]]


class Candidates:
    """Marks the rows that may answer; keeps the marks for the next query that is limited alike. Any number of threads may ask.

    Args:
        encode_texts: Makes vectors of texts, (N, D) float32, unit L2 norm.
    """

    def __init__(self, encode_texts: EncodeTexts) -> None:
        self._encode_texts = encode_texts
        self._masks: dict[tuple[str, str, Selection, tuple[str, ...]], tuple[Mask, tuple[str, ...]]] = {}
        self._marking = threading.Lock()

    def of(self, query: Query, table: "ShardTable") -> tuple[Mask | None, tuple[str, ...]]:
        """Return (rows,) bool, None for all rows that are not removed, and a line for each thing that must not be there.

        Raises:
            MedretError: If a condition asks for what no record has, or a text of `without` is blank.
        """
        if query.selection == EVERYTHING and not query.without:
            return None, ()
        key = (table.modality, query.vector if query.without else "", query.selection, query.without)
        with self._marking:
            if key not in self._masks:
                made = self._mark(query, table)
                if len(self._masks) >= _KEPT:
                    del self._masks[next(iter(self._masks))]
                self._masks[key] = made
            return self._masks[key]

    def _mark(self, query: Query, table: "ShardTable") -> tuple[Mask, tuple[str, ...]]:
        chosen = query.selection.rows(table)
        notes = []
        for text in query.without:
            shown, note = self._showing(text, query, table, chosen)
            notes.append(note)
            chosen = chosen & ~shown
        return chosen, tuple(notes)

    def _showing(self, text: str, query: Query, table: "ShardTable", chosen: Mask) -> tuple[Mask, str]:
        """The rows that show a finding or a text, and how many of the chosen ones they are by which rule.

        The labels tell where the text names a finding of the index and somebody looked for it: positive and uncertain show it.
        Of all other records, those show it whose cosine to the text is in the highest tenth of all live rows.
        """
        if not text.strip():
            raise MedretError("what must not be there is empty; give --without a finding or a text")
        finding = next((name for name in table.findings if plain_name(name) == plain_name(text)), None)
        states = np.full(table.rows, NULL_LABEL, np.int8) if finding is None else table.labels([finding])[:, 0]
        labelled = np.isin(states, (LabelState.POSITIVE, LabelState.UNCERTAIN))
        unread = states == NULL_LABEL
        like = unread & self._like(text, query, table) if (unread & chosen).any() else np.zeros(table.rows, np.bool_)
        counts = (
            [f"{np.count_nonzero(labelled & chosen):,} {table.modality} labelled positive or uncertain for {finding}"] if finding else []
        )
        if finding is None or (unread & chosen).any():
            whose = f" of {np.count_nonzero(unread & chosen):,} in which nobody looked for it" if finding else f" {table.modality}"
            counts.append(f"{np.count_nonzero(like & chosen):,}{whose}, as their cosine to it is in the highest tenth")
        return labelled | like, f"without {text!r}: left out {', and '.join(counts)}"

    def _like(self, text: str, query: Query, table: "ShardTable") -> Mask:
        if query.vector == "features" and table.modality == "images":
            raise MedretError(f"without {text!r}: 'features' vectors of images and texts cannot be compared; use the joint ones")
        vector = self._encode_texts([text], query.vector)[0]
        scores = np.concatenate([np.asarray(block, np.float32) @ vector for block in table.blocks(query.vector)])  # (rows,)
        live = scores if table.live is None else scores[table.live]
        least = np.partition(live, -ceil(len(live) * _LIKE))[-ceil(len(live) * _LIKE)]
        like: Mask = scores >= least
        return like
