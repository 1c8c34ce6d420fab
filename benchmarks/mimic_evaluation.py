"""An evaluation at the size of MIMIC-CXR-JPG: all test films against all of train, through `medret evaluate`; seconds and memory.

python benchmarks/mimic_evaluation.py WORK [--only SECTION,...] [--quick]

P           all test films ask for each of their findings: P@5, P@10, P@50
P-saved     the same, with runs and judgements as files
mAP         over complete rankings
mAP-any     a film asks once; a finding in common answers
P-any-ignore    uncertain labels are left out, so that candidates differ by what a film shows
texts-P     46 prompts; 2,000 resamples of the patients of the candidates
texts-mAP   the same over complete rankings; 200 resamples

368,960 films of train and 5,159 of test, with as many studies and patients as there are, vectors of 512 dimensions as drawn_vectors.py
draws them ("clip"), and labels drawn study by study with about the frequencies of MIMIC's CheXpert labels, whatever the vectors: all
figures are at the level of chance, as the table shows. Each section is a process of its own: wall seconds, processor seconds of all
threads, peak resident memory, of which up to 0.8 GB are the memory-mapped shards. 2 cores: the index 2 min, once; all sections 8 min.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from archive_vectors import write_shards
from drawn_vectors import ClipLike, Vectors, spans
from results_file import Results, options, table

from index.corpora.record import FINDINGS, LabelState, Record
from index.folder import build_index
from index.shards import ShardRow

TRAIN, TEST = (368_960, 222_758, 64_586), (5_159, 3_269, 293)  # films, studies, patients
QUICK_TRAIN, QUICK_TEST = (20_000, 12_000, 3_500), (300, 190, 17)
POSITIVE = {  # share of studies, about
    "No Finding": 0.33, "Enlarged Cardiomediastinum": 0.03, "Cardiomegaly": 0.20, "Lung Opacity": 0.23, "Lung Lesion": 0.03, "Edema": 0.12,
    "Consolidation": 0.05, "Pneumonia": 0.07, "Atelectasis": 0.20, "Pneumothorax": 0.05, "Pleural Effusion": 0.24, "Pleural Other": 0.01,
    "Fracture": 0.02, "Support Devices": 0.29,
}  # fmt: skip
UNCERTAIN = 0.04  # of those that are not positive
IMAGES = ("--direction", "image-image", "--split", "train", "--ask-split", "test", "--max-queries", "1000000")
TEXTS = ("--direction", "text-image", "--split", "train")
SECTIONS = {
    "P": (*IMAGES, "--measure", "P"),
    "P-saved": (*IMAGES, "--measure", "P", "--save", "{work}/mimic-saved"),
    "mAP": (*IMAGES, "--measure", "mAP"),
    "mAP-any": (*IMAGES, "--measure", "mAP", "--relevance", "any"),
    "P-any-ignore": (*IMAGES, "--measure", "P", "--relevance", "any", "--uncertain", "ignore"),
    "texts-P": (*TEXTS, "--measure", "P"),
    "texts-mAP": (*TEXTS, "--measure", "mAP", "--resamples", "200"),
}


def films(rng: np.random.Generator, split: str, sizes: tuple[int, int, int]) -> Iterator[ShardRow]:
    """Draw whose each film is, and the labels of each study; names are of the split."""
    count, studies, patients = sizes
    study = np.sort(np.concatenate([np.arange(studies), rng.integers(0, studies, count - studies)]))
    patient = np.sort(np.concatenate([np.arange(patients), rng.integers(0, patients, studies - patients)]))
    states = np.full((studies, len(FINDINGS)), int(LabelState.NOT_MENTIONED))
    for place, name in enumerate(FINDINGS):
        drawn = rng.random(studies)
        states[drawn > 1 - UNCERTAIN, place] = int(LabelState.UNCERTAIN)
        states[drawn < POSITIVE[name], place] = int(LabelState.POSITIVE)
    for film in range(count):
        own = int(study[film])
        labels = {name: LabelState(state) for name, state in zip(FINDINGS, states[own].tolist(), strict=True)}
        whose = {"study_id": f"{split}-s{own}", "patient_id": f"{split}-p{patient[own]}", "split": split}
        yield ShardRow(Record(id=f"{split}-{film:06d}", image=None, labels=labels, **whose), path="-")


def make_index(folder: Path, quick: bool) -> Path:
    """Make the index, or find it there."""
    if (folder / "index").is_dir():
        return folder / "index"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source, rng = ClipLike(), np.random.default_rng(0)
    sizes = (QUICK_TRAIN, QUICK_TEST) if quick else (TRAIN, TEST)
    rows = [film for split, some in zip(("train", "test"), sizes, strict=True) for film in films(rng, split, some)]
    order = rng.permutation(len(rows))

    def shards() -> Iterator[tuple[list[ShardRow], Vectors]]:
        for number, (start, count) in enumerate(spans(len(rows), 8192)):
            yield [rows[place] for place in order[start : start + count]], source.images(count, number)

    write_shards(folder, {"images": shards()}, source.dimension, FINDINGS)
    build_index(folder / "shards", folder / "index", folder / "encoder")
    return folder / "index"


def measure(index: Path, arguments: tuple[str, ...], work: Path) -> dict[str, Any]:
    """Run medret, and return what it took and the figures over all."""
    out = work / "mimic-result.json"
    asked = [one.format(work=work) for one in arguments]
    command = [str(Path(sys.executable).with_name("medret")), "evaluate", "label-precision", "--index", str(index), "--json", str(out)]
    began = os.times().elapsed
    process = subprocess.Popen([*command, *asked], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"medret evaluate {' '.join(asked)} failed")
    result = json.loads(out.read_text(encoding="utf-8"))
    return {
        "wall": os.times().elapsed - began,
        "processor": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024,
        "queries": result["queries"],
        "candidates": result["candidates"],
        "figures": {name: (one["value"], one["chance"]) for name, one in result["metrics"].items()},
    }


def main() -> None:
    """Measure what is missing from the JSON and print the table."""
    parser = options(__doc__ or "", tuple(SECTIONS))
    given = parser.parse_args()
    name = f"mimic-evaluation{'-quick' if given.quick else ''}"
    index = make_index(given.work / name, given.quick)
    results = Results(given.json or given.work / f"{name}.json", {"script": "mimic_evaluation", "quick": given.quick}, given.again)
    for section in given.only.split(","):
        results.measure(section, partial(measure, index, SECTIONS[section], given.work))
    rows = []
    for section in results.names(""):
        one = results.get(section)
        shown = ", ".join(f"{name} {value:.3f} (chance {chance:.3f})" for name, (value, chance) in list(one["figures"].items())[:1])
        counts = f"{one['queries']:,}, {one['candidates']:,}"
        rows.append([section, counts, f"{one['wall']:.0f}", f"{one['processor']:.0f}", f"{one['memory'] / 1e9:.1f}", shown])
    print(results.heading(["numpy", "faiss-cpu"]))
    print(table(["", "queries, candidates", "seconds", "processor seconds", "peak memory, GB", ""], rows))


if __name__ == "__main__":
    main()
