"""Archives of drawn vectors, for tests: patients with studies, two films, a report and two sentences each, as shards and as an index."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from shard_folders import save_manifest, unit

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from index.corpora.record import LabelState, Record
from index.manifest import ModalityShards
from index.shards import ShardRow, ShardWriter

DIMENSION = 64
KINDS = ("flat", "scan", "ivf-scan", "ivf-pq", "ivf-flat", "ivf-rabitq", "hnsw")


def make_encoder(folder: Path, seed: int = 0) -> str:
    """Save a tiny encoder whose joint vectors have DIMENSION numbers; return its fingerprint."""
    return save_checkpoint(build_encoder("tiny", "tiny", texts=["no acute disease"], size=32, dimension=DIMENSION, seed=seed), folder)


def write_archive(
    folder: Path,
    patients: Sequence[int],
    encoder: str,
    *,
    findings: Sequence[str] = ("Edema",),
    shard_rows: int = 50,
    dtype: str = "float32",
    pseudonymised: bool = False,
    texts: bool = True,
    corpus: dict[str, str | None] | None = None,
) -> Path:
    """Write shards of patients by their numbers; the same number has the same records and vectors wherever it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[tuple[ShardRow, np.ndarray]]] = {"images": [], "reports": [], "sentences": []}
    for number in patients:
        draw = np.random.default_rng(number)
        patient, study = f"patient{number:04d}", f"study{number:04d}"
        labels = {findings[0]: LabelState(number % 2)}
        vectors = unit(draw.normal(size=(5, DIMENSION)))
        for film in range(2):
            record = Record(id=f"film{number:04d}-{film}", image=None, patient_id=patient, study_id=study, labels=labels, view="PA")
            rows["images"].append((ShardRow(record, path=None if pseudonymised else f"{study}/{film}.png"), vectors[film]))
        report = Record(id=study, image=None, patient_id=patient, study_id=study, labels=labels)
        rows["reports"].append((ShardRow(report, text=f"Film of {number}. Nothing else."), vectors[2]))
        for place in range(2):
            sentence = Record(id=f"{study}#{place + 1}", image=None, patient_id=patient, study_id=study, labels=labels)
            rows["sentences"].append((ShardRow(sentence, text=f"Sentence {place} of {number}."), vectors[3 + place]))
    modalities = {}
    for modality, held in rows.items() if texts else [("images", rows["images"])]:
        writer = ShardWriter(folder, modality, {"joint": DIMENSION}, findings, dtype)
        shards = []
        for start in range(0, len(held), shard_rows):
            part = held[start : start + shard_rows]
            shards.append(writer.write(len(shards), [row for row, _ in part], {"joint": np.stack([vector for _, vector in part])}))
        modalities[modality] = ModalityShards(dimensions=writer.dimensions, shards=tuple(shards))
    if pseudonymised:
        (folder / "private").mkdir()
        with (folder / "private" / "paths.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "path"), *((row.record.id, f"/films/{row.record.id}.png") for row, _ in rows["images"])])
    save_manifest(
        folder,
        modalities,
        encoder=encoder,
        dtype=dtype,
        findings=findings,
        pseudonymised=pseudonymised,
        corpus={"root": None if pseudonymised else f"/films of {folder.name}", **(corpus or {})},
    )
    return folder


def film_vector(number: int, film: int = 0) -> np.ndarray:
    """Return the (1, DIMENSION) vector of a film of a patient."""
    return unit(np.random.default_rng(number).normal(size=(5, DIMENSION)))[film : film + 1]
