"""Frozen query sets: what an evaluation asked of what, as ids, seeds and hashes, so that it can be repeated exactly."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from encoders.json_object import read_json
from index.corpora.prompts import prompts_for
from index.corpora.record import FINDINGS
from retrieval.filters import parse_condition
from retrieval.results import DirectionResult, EvaluationResult, PerImage, PerQuery

FORMAT = 1
RESAMPLES = 2000  # unless told otherwise
BESIDE = ("left_out", "interval", "positive_images")  # what a protocol tells beside options
OF_ENCODER = ("learned_from", "fits_cut_short", "test_images_that_the_encoder_may_have_learned_from")  # of a probe; its images are listed


def freeze(result: EvaluationResult, options: Mapping[str, Any], encoder: str, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Describe an evaluation so that another can be held against it: no text and no image, but record ids.

    Args:
        result: What was found.
        options: What was asked for, by the names of the benchmark's parameters.
        encoder: Fingerprint of the encoder.
        resamples: Behind each interval.

    Raises:
        MedretError: If the figures of a direction come neither from ranked queries nor from scored images.
    """
    return {
        "format": FORMAT,
        "benchmark": result.benchmark,
        "options": _plain({name: value for name, value in options.items() if not isinstance(value, Path)}),
        "resamples": resamples,
        "encoder": encoder,
        "directions": {name: _describe(name, one) for name, one in result.directions.items()},
    }


def load_frozen(path: Path, benchmark: str) -> dict[str, Any]:
    """Read a frozen evaluation.

    Raises:
        MedretError: If the file is none, or of another benchmark.
    """
    frozen = read_json(path)
    whole = frozen.get("format") == FORMAT and {"benchmark", "encoder"} <= frozen.keys()
    options, directions = (frozen.get(name) for name in ("options", "directions"))
    if not whole or not isinstance(options, dict) or not isinstance(directions, dict) or not all(map(_is_described, directions.values())):
        raise MedretError(f"{path}: no frozen evaluation of format {FORMAT}; expected a file made by: medret evaluate ... --freeze {path}")
    if frozen["benchmark"] != benchmark:
        named = frozen["benchmark"]
        raise MedretError(f"{path}: freezes {named}, not {benchmark}. Repeat it: medret evaluate {named} --frozen {path}")
    return frozen


def _is_described(direction: Any) -> bool:
    return isinstance(direction, dict) and {"protocol", "prompts_sha256", "ranking"} <= direction.keys()


def frozen_options(frozen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked for, as the benchmark takes it; MedretError where a condition is none."""
    options = dict(frozen["options"])
    if "only" in options:
        try:
            options["only"] = tuple(parse_condition(text) for text in options["only"])
        except ValueError as error:
            raise MedretError(f"a frozen condition is damaged: {error}. Freeze the evaluation again") from error
    return options


def check_frozen(frozen: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Hold an evaluation against a frozen one.

    Args:
        frozen: As `load_frozen` read it.
        now: `freeze` of the evaluation that repeats it.

    Returns:
        What to know though queries, candidates and relevance are those frozen.

    Raises:
        MedretError: If they are not; all that differs is named.
    """
    now = json.loads(json.dumps(now))
    faults = [fault for name, one in frozen["directions"].items() for fault in _differing(name, one, now["directions"].get(name))]
    faults += [f"{name}: was not frozen" for name in now["directions"] if name not in frozen["directions"]]
    if faults:
        raise MedretError(f"not what was frozen: {'; '.join(faults)}. Ask the index that was frozen, or freeze anew")
    if frozen["encoder"] != now["encoder"]:
        return ()
    moved = [name for name, one in frozen["directions"].items() if one["ranking"] != now["directions"][name]["ranking"]]
    return tuple(f"{name}: same encoder, asked the same, but ranked otherwise than when it was frozen" for name in moved)


def _describe(name: str, result: DirectionResult) -> dict[str, Any]:
    protocol = {key: value for key, value in result.protocol.items() if key not in (*BESIDE, *OF_ENCODER)}
    if result.per_query is not None:
        return {"protocol": _plain(protocol), **_describe_queries(result.per_query, protocol)}
    if result.per_image is None:
        raise MedretError(f"{name}: its figures come neither from ranked queries nor from scored images, so there is nothing to freeze")
    return {"protocol": _plain(protocol), **_describe_images(result.per_image)}


def _describe_images(each: PerImage) -> dict[str, Any]:
    orders = {part: np.argsort(np.array(ids, dtype=object), kind="stable") for part, ids in each.ids.items()}  # whatever the index's own
    ranked = (np.argsort(values[orders["test"]], axis=0, kind="stable") for values in each.scores.values())
    return {
        "images": {part: sorted(ids) for part, ids in each.ids.items()},
        "labels_sha256": _hash(part.encode() + b"|" + each.labels[part][order].tobytes() for part, order in orders.items()),
        "prompts_sha256": _hash(text.encode() + b"\n" for text in each.texts),
        "ranking": _hash(places.astype("<i8").tobytes() for places in ranked),
    }


def _describe_queries(each: PerQuery, protocol: Mapping[str, Any]) -> dict[str, Any]:
    gallery = np.unique(each.candidates[each.gallery].astype(str))
    return {
        "queries": list(each.ids),
        "candidates": len(gallery),
        "candidates_sha256": _hash(name.encode() + b"\n" for name in gallery),
        "relevance_sha256": _hash(_relevance(each, gallery)),
        "prompts_sha256": _hash(_prompts(each, protocol)),
        "ranking": _hash(_ranking(each)),
    }


def _relevance(each: PerQuery, gallery: NDArray[np.str_]) -> Iterator[bytes]:
    """What answers each query, and what it must not find."""
    places = np.searchsorted(gallery, each.candidates.astype(str))
    marked = np.zeros(len(gallery), dtype=np.bool_)
    for query in range(len(each.ids)):
        for rows in (each.relevant(query), each.struck(query)):
            marked[places[rows]] = True  # tens of thousands of rows are sorted sooner by marking them
            found = np.flatnonzero(marked)
            marked[found] = False
            yield found.astype("<i8").tobytes() + b"|"


def _prompts(each: PerQuery, protocol: Mapping[str, Any]) -> Iterator[bytes]:
    """The built-in words, which a later version may change."""
    if protocol.get("prompts") == "built-in":
        yield from (text.encode() + b"\n" for name in each.names if name in FINDINGS for text in prompts_for(name))


def _ranking(each: PerQuery) -> Iterator[bytes]:
    for rows in each.rows:
        yield b"\n".join(str(name).encode() for name in each.candidates[rows[rows >= 0]]) + b"|"


def _hash(parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON holds them; conditions as they are written."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(options), default=str))
    return plain


def _differing(name: str, frozen: Mapping[str, Any], now: Mapping[str, Any] | None) -> Iterator[str]:
    if now is None:
        yield f"{name}: is missing"
        return
    for option in sorted(frozen["protocol"].keys() | now["protocol"].keys()):
        was, found = frozen["protocol"].get(option), now["protocol"].get(option)
        if was != found:
            yield f"{name}: {option.replace('_', ' ')} was {was}, is {found}"
    same = True
    for what, asked, asks in _listed(frozen, now):
        if asked != asks:
            first, same = min(asked ^ asks), False
            yield f"{name}: {len(asked - asks)} of {len(asked)} {what} are gone and {len(asks - asked)} are new, such as {first}"
    if same and frozen.get("labels_sha256") != now.get("labels_sha256"):
        yield f"{name}: the labels of the images are not those that were frozen"
    if frozen.get("candidates_sha256") != now.get("candidates_sha256"):
        yield f"{name}: other candidates ({frozen['candidates']} were frozen, there are {now['candidates']})"
    elif same and frozen.get("relevance_sha256") != now.get("relevance_sha256"):
        yield f"{name}: the labels say otherwise what answers the queries, or what they must not find"
    if frozen["prompts_sha256"] != now["prompts_sha256"]:
        yield f"{name}: other words of the prompts"


def _listed(frozen: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, set[str], set[str]]]:
    """What was listed by name, with the ids that were frozen and those that there are."""
    if "queries" in frozen:
        yield "queries", set(frozen["queries"]), set(now["queries"])
    for part, ids in frozen.get("images", {}).items():
        yield f"{part} images", set(ids), set(now["images"].get(part, ()))
