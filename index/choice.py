"""Which kind of index to take: the one that is named, or the fastest of those predicted to fit memory, latency and patience."""

from collections.abc import Sequence
from dataclasses import dataclass

from encoders.errors import MedretError
from index.calibration import Calibration, calibrate
from index.cost import Prediction, predict
from index.kinds import KINDS, find_kind

HOUR = 3600.0
FLAT_FAST_ENOUGH = 0.005  # seconds a query
BUILD_LIMIT = 60.0  # seconds; what builds for longer is taken only where nothing else is fast enough for the latency asked for
HIGHEST_CERTIFIABLE = 0.996  # 1,000 perfect answers show no more (index.contract)
_SMALL = 16e6  # bytes of vectors: no machine takes noticeable time for these


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The kind taken, what each would cost, and why this one, in a sentence."""

    kind: str
    predictions: tuple[Prediction, ...]
    reason: str


def is_small(rows: int, dimension: int) -> bool:
    """Whether so few vectors are searched and indexed in no time: not worth a calibration."""
    return 4.0 * rows * dimension <= _SMALL


def choose_kind(
    rows: int,
    dimension: int,
    calibration: Calibration,
    recall: float,
    memory: float | None = None,
    latency: float | None = None,
    half: bool = False,
) -> Choice:
    """Choose a kind: exact search while it is fast enough, else the fastest that fits.

    Args:
        rows: N, of the largest index.
        dimension: D.
        calibration: Of this machine.
        recall: What the index shall certify: above `HIGHEST_CERTIFIABLE` only exact search is sure to have it.
        memory: Bytes that a searching process may need, mapped files that every query reads included; the machine's by default.
        latency: Seconds that a query may take; 5 ms where exact search is concerned, and as little as possible, when not given.
        half: Whether the stored vectors are float16.

    Raises:
        MedretError: If no kind fits the memory.
    """
    every = tuple(predict(kind, rows, dimension, calibration, half=half) for kind in KINDS.values())
    flat = every[0]
    room = calibration.memory if memory is None else memory
    fitting = [one for one in every if one.needed_bytes <= room]
    wanted = FLAT_FAST_ENOUGH if latency is None else latency

    def choose(kind: Prediction, reason: str) -> Choice:
        return Choice(kind=kind.kind, predictions=every, reason=f"{kind.kind}: {reason}")

    if not fitting:
        least = min(every, key=lambda one: one.needed_bytes)
        raise MedretError(
            f"no kind of index over {rows:,} x {dimension} vectors fits into {_amount(room)}: the smallest, {least.kind}, needs "
            f"{_amount(least.needed_bytes)}. Allow it more (--memory), or build in parts"
        )
    if flat in fitting and flat.latency_s <= wanted:
        return choose(flat, f"exact search takes {_milliseconds(flat)} a query, within {wanted * 1e3:g} ms")
    if recall > HIGHEST_CERTIFIABLE and flat in fitting:
        return choose(flat, f"recall {recall:g} cannot be shown by 1,000 queries, and exact search needs no showing")
    faster = [one for one in fitting if one.latency_s < flat.latency_s] if flat in fitting else fitting
    return choose(*_fastest(faster or [flat], latency))


def _fastest(fitting: Sequence[Prediction], latency: float | None) -> tuple[Prediction, str]:
    quick = [one for one in fitting if one.build_s <= BUILD_LIMIT]
    best = min(quick, key=lambda one: one.latency_s, default=None)
    soon = f"built within {BUILD_LIMIT:.0f} s"
    if best and (latency is None or best.latency_s <= latency):
        return best, f"the fastest that fits and is {soon}: {_milliseconds(best)} a query predicted"
    least = min(fitting, key=lambda one: one.build_s)
    if latency is None:
        return least, f"the quickest to build ({least.build_s:.0f} s predicted): nothing that fits is {soon}"
    within = f"within {latency * 1e3:g} ms"
    if enough := [one for one in fitting if one.latency_s <= latency]:
        other = min(enough, key=lambda one: one.build_s)
        return other, f"the quickest to build ({other.build_s:.0f} s predicted) of those that answer {within}"
    patient = [one for one in fitting if one.build_s <= HOUR] or [least]
    other = min(patient, key=lambda one: one.latency_s)
    return other, f"the fastest that fits and is built within an hour: {_milliseconds(other)} a query predicted, none answers {within}"


def resolve_kind(
    name: str,
    rows: int,
    dimension: int,
    recall: float,
    memory: float | None = None,
    latency: float | None = None,
    yes: bool = False,
    half: bool = False,
) -> Choice:
    """Return the kind to build: the one named, or for "auto" the one to choose, once it is known to be worth the wait.

    The machine is measured unless the vectors are too few to matter (then without predictions).

    Args:
        name: A kind, a FAISS factory string, or "auto".
        rows: Of the largest index.
        dimension: Of its vectors.
        recall: What shall be certified.
        memory: Bytes, see `choose_kind`.
        latency: Seconds, likewise.
        yes: Build even what is predicted to take over an hour.
        half: Whether the stored vectors are float16.

    Raises:
        MedretError: If the kind is not known, none fits the memory, or building would take over an hour.
    """
    kind = None if name == "auto" else find_kind(name)
    if kind is not None and (kind.exact or is_small(rows, dimension)):
        return Choice(kind=kind.name, predictions=(), reason="")
    if kind is None and latency is None and is_small(rows, dimension) and 4.0 * rows * dimension <= (_SMALL if memory is None else memory):
        return Choice(kind="flat", predictions=(), reason=f"flat: exact search over {rows:,} x {dimension} vectors is quick anyway")
    calibration = calibrate()
    if kind is not None:
        choice = Choice(kind=kind.name, predictions=(predict(kind, rows, dimension, calibration, half=half),), reason="")
    else:
        choice = choose_kind(rows, dimension, calibration, recall, memory, latency, half)
    check_patience(next(one for one in choice.predictions if one.kind == choice.kind), yes)
    return choice


def check_patience(prediction: Prediction, yes: bool) -> None:
    """Refuse what would take over an hour, unless the user said yes.

    Raises:
        MedretError: Naming the prediction and the flag.
    """
    total = prediction.build_s + prediction.certify_s
    if total > HOUR and not yes:
        raise MedretError(
            f"an index of kind {prediction.kind} is predicted to take {total / HOUR:.1f} hours on this machine "
            f"({prediction.build_s / 60:,.0f} min to build, {prediction.certify_s / 60:,.0f} min to certify). "
            "Add --yes to build it, or choose another --kind"
        )


def _amount(size: float) -> str:
    unit, one = next(((unit, one) for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size >= one), ("bytes", 1))
    return f"{size / one:,.0f} {unit}" if size >= 10 * one else f"{size / one:.2g} {unit}"


def _milliseconds(prediction: Prediction) -> str:
    return f"{prediction.latency_s * 1e3:.2g} ms" if prediction.latency_s < 0.1 else f"{prediction.latency_s * 1e3:.0f} ms"
