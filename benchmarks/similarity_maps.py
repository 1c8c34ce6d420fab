"""How often the peak of a similarity map lies on the finding that was drawn, on phantoms whose findings are known.

    medret build-index PHANTOMS --encoder RUN --out INDEX
    python benchmarks/similarity_maps.py INDEX PHANTOMS --split test

Asked is with each finding's first three built-in prompts; counted are the positive films among the first answers that have
a box in boxes.csv. Beside the map: the map of the query alone, not of what it says beyond a normal film; a random place, the
centre, and the two ways of reading the network's last map.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from encoders.dual import DualEncoder
from encoders.preprocess import Fitted
from encoders.similarity_map import similarity_map
from index.corpora.prompts import prompts_for
from index.corpora.record import LabelState
from retrieval.answers import Hit, Query
from retrieval.engine import SearchEngine
from retrieval.maps import beyond_normal

Box = tuple[int, int, int, int]  # x_min, y_min, x_max, y_max in pixels of the film
TOLERANCE = 8 / 128  # of the longer side: a cell of the coarser map of a 128-pixel square


def main() -> None:
    """Print the shares as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("phantoms", type=Path)
    parser.add_argument("--split", action="append", help="repeatable; all when not given")
    parser.add_argument("--first", type=int, default=10, help="answers of a prompt that are looked at")
    options = parser.parse_args()
    torch.manual_seed(0)
    engine = SearchEngine.load(options.index, device="cpu")
    boxes = read_boxes(options.phantoms / "boxes.csv")
    hits: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for finding, hit, vector in answers(engine, boxes, options.split, options.first):
        assert hit.image_path is not None
        fitted = engine.encoder.config.preprocessing.read_fitted(hit.image_path)
        for way, peak in peaks(engine.encoder, fitted, vector, beyond_normal(engine, vector)).items():
            hits[way][finding].append(on_box(peak, boxes[hit.id, finding], 0))
            hits[f"{way}, nearby"][finding].append(on_box(peak, boxes[hit.id, finding], TOLERANCE * max(fitted.width, fitted.height)))
    for way, found in hits.items():
        every = [one for part in found.values() for one in part]
        parts = "  ".join(f"{finding} {np.mean(part):.2f} of {len(part)}" for finding, part in found.items())
        print(f"{way:40s} {np.mean(every):.3f} of {len(every)}  {parts}")


def read_boxes(path: Path) -> dict[tuple[str, str], list[Box]]:
    """The boxes of each (film, finding)."""
    boxes = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            x_min, y_min, x_max, y_max = (int(row[name]) for name in ("x_min", "y_min", "x_max", "y_max"))
            boxes[row["dicom_id"], row["finding"]].append((x_min, y_min, x_max, y_max))
    return dict(boxes)


def answers(
    engine: SearchEngine, boxes: dict[tuple[str, str], list[Box]], splits: list[str] | None, first: int
) -> Iterator[tuple[str, Hit, np.ndarray]]:
    """Each finding's hits that the encoder ranked rightly, with the query's vector."""
    for finding in sorted({finding for _, finding in boxes}):
        for prompt in prompts_for(finding)[:3]:
            answer = engine.search(Query(text=prompt, k=first, splits=tuple(splits) if splits else None))
            vector = engine.encode_texts([prompt])[0]
            for hit in answer.hits:
                if hit.labels.get(finding) == LabelState.POSITIVE.name.lower() and (hit.id, finding) in boxes:
                    yield finding, hit, vector


def peaks(encoder: DualEncoder, fitted: Fitted, query: np.ndarray, direction: np.ndarray) -> dict[str, tuple[float, float]]:
    """Each way's peak, x and y in pixels of the film."""
    film, asked, beyond = torch.from_numpy(fitted.square), torch.from_numpy(query), torch.from_numpy(direction)
    maps = {"similarity map": similarity_map(encoder, film, beyond), "map of the query alone": similarity_map(encoder, film, asked)}
    maps |= last_maps(encoder, film, beyond)
    maps["random place"] = torch.rand(film.shape)
    spread = {way: encoder.config.preprocessing.unsquare(one.numpy(), fitted.width, fitted.height) for way, one in maps.items()}
    places = {way: np.unravel_index(int(one.argmax()), one.shape) for way, one in spread.items()}
    return {way: (x + 0.5, y + 0.5) for way, (y, x) in places.items()} | {"centre": (fitted.width / 2, fitted.height / 2)}


def last_maps(encoder: DualEncoder, film: torch.Tensor, direction: torch.Tensor) -> dict[str, torch.Tensor]:
    """The network's last map (of a ResNet): the head applied at each place, and the pooled score's first-order terms."""
    with torch.no_grad():
        last = encoder.image.model(encoder.config.preprocessing.normalise(film[None])).last_hidden_state[0].movedim(0, -1)  # (H, W, F)
        each = F.normalize(encoder.image_head(last), dim=-1) @ direction  # (H, W)
    pooled = last.mean(dim=(0, 1)).requires_grad_()
    (gradient,) = torch.autograd.grad(F.normalize(encoder.image_head(pooled), dim=-1) @ direction, pooled)
    maps = {"last map, head at each place": each, "last map, first order": last @ gradient}
    scaled = {way: F.interpolate(one[None, None], size=film.shape, mode="bicubic", align_corners=False) for way, one in maps.items()}
    return {way: one[0, 0].detach() for way, one in scaled.items()}


def on_box(peak: tuple[float, float], boxes: list[Box], tolerance: float) -> bool:
    """Whether a peak lies on one of the boxes."""
    x, y = peak
    return any(a - tolerance <= x < c + tolerance and b - tolerance <= y < d + tolerance for a, b, c, d in boxes)


if __name__ == "__main__":
    main()
