"""From cold to answer: `medret query` in a new process, beside the plain way, on an archive with a BERT-base text encoder.

python benchmarks/cold_query.py WORK [--set clip] [--rows 601000] [--kinds scan,flat,ivf-scan] [--images tiny,efficientnet-lite0,resnet50]

A BERT-base with random weights (110 million, vocabulary 30,522) is written as a Hugging Face folder and built into an encoder; the
archive's shards are linked beside it under its fingerprint, and an index of each kind is built by medret; for films, an encoder and
an index of the first kind for each image network, with random weights too (the default encoder's is efficientnet-lite0). Then, in turns,
ten new processes of each way, after one that is not counted; all files lie in the page cache; seconds are of the whole process, as a shell
sees them. The plain way imports torch and transformers, loads model and tokenizer by their Auto classes, encodes, reads a FAISS flat
file of the same vectors and searches it. Stages are from a run of their own: what a process has done by when, said by itself.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from archive_vectors import Archive, asked_archive
from clock import files_under, median
from opening import read_files
from results_file import Results, archive_options, options, table

TEXT = "small left pleural effusion with adjacent atelectasis"
PLAIN = Path(__file__).with_name("cold_plain.py")
STAGES = Path(__file__).with_name("cold_stages.py")
WORDS = 30_522  # of BERT's vocabulary


def main() -> None:
    """Measure what the JSON does not hold, and print the table."""
    parser = options(__doc__)
    archive_options(parser)
    parser.add_argument("--kinds", default="scan,flat,ivf-scan", help="of index, by commas")
    parser.add_argument("--images", default="tiny,efficientnet-lite0,resnet50", help="networks that encode films, by commas")
    given = parser.parse_args()
    archive, kinds = asked_archive(given), given.kinds.split(",")
    home = prepare(archive)
    ways = {f"medret query --text, {kind}": medret_query(home, kind) for kind in kinds} | {"medret --help": [medret(), "--help"]}
    for image in given.images.split(","):
        ways[f"medret query --image, {image}, {kinds[0]}"] = medret_query(prepare(archive, image), kinds[0], film(home))
    ways["the plain way"] = [sys.executable, str(PLAIN), str(home / "network"), str(flat_file(archive)), TEXT]
    about = {"script": "cold_query", "set": given.set, "rows": archive.table().rows, "quick": given.quick}
    results = Results(given.json or given.work / f"cold-query-{archive.name}.json", about, given.again)
    files = files_under(home, archive.shards, flat_file(archive))
    for name, command in ways.items():
        results.measure(name, lambda command=command: timed(command, files, 2 if given.quick else 10))
    for kind in given.kinds.split(","):
        results.measure(f"stages, {kind}", lambda kind=kind: stages(home, kind, 2 if given.quick else 5))
    print("\n".join([f"### {archive.name}: from cold to answer", "", results.heading(("numpy", "pyarrow", "torch", "transformers")), ""]))
    print(report(results))


def prepare(archive: Archive, image: str = "tiny") -> Path:
    """Write the text network, an encoder of it and an image network, and the shards under its fingerprint; return the folder."""
    network, home = archive.folder / "cold" / "network", archive.folder / ("cold" if image == "tiny" else f"cold-{image}")
    if (home / "shards" / "manifest.json").is_file():
        return home
    from encoders.checkpoint import save_checkpoint
    from encoders.dual import build_encoder
    from index.manifest import load_shards_manifest

    if not network.is_dir():
        write_network(network)
    dimension = archive.table().dimension("joint")
    encoder = build_encoder(image, network, size=224, dimension=dimension, seed=0)
    mark = save_checkpoint(encoder, home / "encoder")
    (home / "shards").mkdir(exist_ok=True, parents=True)
    for shard in archive.shards.glob("*.arrow"):
        if not (home / "shards" / shard.name).exists():
            os.link(shard, home / "shards" / shard.name)
    from dataclasses import replace

    replace(load_shards_manifest(archive.shards), encoder=mark).save(home / "shards")
    return home


def write_network(folder: Path) -> None:
    """Write a BERT-base with random weights and a vocabulary of invented words as a Hugging Face folder."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=WORDS), add_pooling_layer=False).save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = sorted({*TEXT.split(), *"abcdefghijklmnopqrstuvwxyz"})
    invented = (f"word{number}" for number in range(WORDS))
    words = [*special, *known, *(next(invented) for _ in range(WORDS - len(special) - len(known)))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}))


def flat_file(archive: Archive) -> Path:
    """Return the archive's vectors as a FAISS flat file."""
    path = archive.folder / "faiss-flat.index"
    if not path.is_file():
        import faiss

        vectors = archive.vectors()
        built = faiss.IndexFlatIP(vectors.shape[1])
        built.add(vectors)
        faiss.write_index(built, str(path))
    return path


def film(home: Path) -> Path:
    """Return an invented film of MIMIC's size as JPEG."""
    path = home / "film.jpg"
    if not path.is_file():
        from PIL import Image

        grey = np.random.default_rng(0).integers(0, 255, (100, 82), np.uint8)
        Image.fromarray(grey).resize((2500, 3050), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def medret() -> str:
    """Return the installed command."""
    return str(Path(sys.executable).with_name("medret"))


def medret_query(home: Path, kind: str, image: Path | None = None) -> list[str]:
    """Return the command that asks an index of this kind, which is built where it is missing or of before films were encoded in NumPy."""
    from index.folder import build_index
    from index.index_manifest import find_index_manifest

    folder = home / f"index-{kind}"
    if (built := find_index_manifest(folder)) is None or built.image_encoder is None:
        build_index(home / "shards", folder, home / "encoder", kind)
    asked = ["--text", TEXT] if image is None else ["--image", str(image)]
    return [medret(), "query", *asked, "--index", str(folder)]


def timed(command: list[str], files: list[Path], times: int) -> dict[str, Any]:
    """Return the seconds of so many new processes, and their median."""
    read_files(files)
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        taken.append(time.perf_counter() - began)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return {"seconds": taken[1:], "median": median(taken[1:])}


def stages(home: Path, kind: str, times: int) -> dict[str, Any]:
    """Return the medians of what a process says it had done by when, in seconds since it was started."""
    told = []
    for _ in range(times + 1):
        command = [sys.executable, str(STAGES), str(home / f"index-{kind}"), TEXT, repr(time.time())]
        told.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return {"stages": {name: median([one[name] for one in told[1:]]) for name in told[0]}}


def report(results: Results) -> str:
    """Return the figures as Markdown."""
    ways = [name for name in results.names("") if not name.startswith("stages")]
    plain = results.get("the plain way")["median"]
    rows = []
    for name in ways:
        found = results.get(name)
        spread = f"{min(found['seconds']):.2f} to {max(found['seconds']):.2f}"
        rows.append([name, f"{found['median']:.2f}", spread, f"{plain / found['median']:.0f} x"])
    parts = [table(["way", "median, s", "range", "plain way / this"], rows), ""]
    for name in results.names("stages"):
        steps = results.get(name)["stages"]
        parts += [f"{name}: " + ", ".join(f"{step} {1e3 * seconds:.0f} ms" for step, seconds in steps.items())]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
