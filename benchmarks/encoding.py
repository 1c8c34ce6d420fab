"""From films on disk to vectors: decoding and whole runs, beside the plain way and the decoder's own limit.

python benchmarks/encoding.py WORK [--only decode,encode,forward] [--dicom FOLDER] [--kinds mimic,chexpert-small]

decode   films a second to squares of 224 pixels: medret's path with one thread and with all; the plain way (Pillow to RGB, resize,
         tensor, in a DataLoader with a process a core; for DICOM pydicom, window, resize); and the limit: what the decoder
         alone takes on one core (JPEG: the entropy decode, measured as a decode to an eighth of the size, which has hardly any other
         work; DICOM: the stored values as pydicom gets them with the fastest plugin installed).
encode   a whole corpus of such films through ResNet-50 (random weights), each way in a new process: images a second without
         imports and the model, and the most memory that was resident. Plain is the DataLoader above and an eager fp32 forward pass.
forward  the networks alone: see forward_passes.py.

Films are phantoms, enlarged, with as much grain as makes files as large as MIMIC-CXR-JPG's (2,500 x 3,000, quality 95) and
CheXpert-small's (390 x 320) are; DICOM has 12 bits in four transfer syntaxes; --dicom adds real films. Threads all use all cores.
On 2 cores: decode 7 min, encode 5 min, forward 4 min; the films are made once, in 4 min, and take 1.5 GB.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from clock import CORES, in_turns, median
from film_files import SYNTAXES, make_films
from forward_passes import forward_table, measure_forward
from PIL import Image
from results_file import Results, options, table

from encoders.preprocess import Preprocessing
from index.corpora.record import Record
from index.squares import decode_squares

SECTIONS = ("decode", "encode", "forward")
COUNTS = {"mimic": 32, "chexpert-small": 320, "dicom": 8}
REPEATS = {"mimic": 3, "chexpert-small": 8, "dicom": 2}  # times each film is decoded in a round: starting processes must not weigh
KINDS = ("mimic", "chexpert-small", *(f"dicom: {syntax}" for syntax in SYNTAXES))
ENCODED = {"mimic": 192, "chexpert-small": 320}  # films of a whole run; made by copying
WAYS = {"plain, fp32": (), "medret, fp32": ("float32",), "medret, bf16": ("bfloat16",), "medret, bf16, compiled": ("bfloat16", "compiled")}
BATCH = 32


def main() -> None:
    """Be the parent that measures, or one of the runs that are measured."""
    if "--child" in sys.argv:
        _child(*sys.argv[sys.argv.index("--child") + 1 :])
        return
    parser = options(__doc__, SECTIONS)
    parser.add_argument("--dicom", type=Path, help="a folder of real DICOM films, decoded as one more kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of films, by commas")
    given = parser.parse_args()
    results = Results(given.json or given.work / "encoding.json", {"script": "encoding", "quick": given.quick}, given.again)
    kinds, wanted = given.kinds.split(","), given.only.split(",")
    for kind in kinds if "decode" in wanted else ():
        results.measure(f"decode: {kind}", lambda kind=kind: _decode(given.work, kind, given.quick))
    if given.dicom and "decode" in wanted:
        results.measure("decode: real DICOM", lambda: measure_decoding(given.dicom, 1, given.quick))
    for kind in [kind for kind in kinds if kind in ENCODED] if "encode" in wanted else ():
        results.measure(f"encode: {kind}", lambda kind=kind: measure_encoding(given.work, kind, given.quick))
    if "forward" in wanted:
        results.measure("forward", lambda: measure_forward(given.quick))
    print(report(results))


def _decode(work: Path, kind: str, quick: bool) -> dict[str, Any]:
    return measure_decoding(_films(work, kind, quick), 1 if quick else REPEATS[kind.partition(":")[0]], quick)


def measure_decoding(folder: Path, repeats: int, quick: bool) -> dict[str, Any]:
    """Return films/s of each way, the median of several rounds in turns; what takes more than 15 s is done once."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) * repeats
    dicom = files[0].suffix == ".dcm"
    records = [Record(id=path.stem, image=path) for path in files]
    calls: dict[str, Callable[[], Any]] = {
        "limit: the decoder alone, 1 core": lambda: [_limit(path, dicom) for path in files],
        "medret, 1 thread": lambda: _medret(records, 1),
        f"medret, {CORES} threads": lambda: _medret(records, CORES),
        "plain, 1 process": lambda: _plain(files, dicom, 0),
        f"plain, {CORES} processes": lambda: _plain(files, dicom, CORES),
    }
    times = in_turns(calls, 1 if quick else 3, patience=15)
    return {
        "films": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "rates": {n: len(files) / median(t) for n, t in times.items()},
    }


def measure_encoding(work: Path, kind: str, quick: bool) -> dict[str, Any]:
    """Return films/s and the most memory of each way, each in a process of its own, the median of the rounds."""
    films = _copied(_films(work, kind, quick), work / f"corpus-{kind}", 24 if quick else ENCODED[kind])
    checkpoint = _resnet(work)
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(1 if quick else 2):
        for name, settings in WAYS.items():
            command = [sys.executable, __file__, "--child", str(films), str(checkpoint), str(work / "encoded"), *settings]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr}")
            taken[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {"ways": {name: {key: median([one[key] for one in found]) for key in found[0]} for name, found in taken.items()}}


def report(results: Results) -> str:
    """Return the figures as Markdown."""
    parts = ["### Encoding", "", results.heading(("torch", "pillow", "pydicom", "python-gdcm", "pylibjpeg-openjpeg"))]
    if decoded := {name.removeprefix("decode: "): results.get(name) for name in results.names("decode: ")}:
        names = list(next(iter(decoded.values()))["rates"])
        rows = [
            [kind, f"{f['bytes'] / f['films'] / 1e6:.2f}", *(f"{f['rates'][name]:,.1f}" for name in names)] for kind, f in decoded.items()
        ]
        parts += ["", "Decoding to 224 px, films/s", "", table(["films", "MB each", *names], rows)]
    for name in results.names("encode: "):
        rows = [
            [way, f"{f['films'] / f['seconds']:.1f}", f"{f['begun']:.1f}", f"{f['rss'] / 1e6:,.0f}"]
            for way, f in results.get(name)["ways"].items()
        ]
        parts += ["", f"{name.removeprefix('encode: ')}: files to vectors, ResNet-50", ""]
        parts.append(table(["way", "films/s", "s until the first batch is done", "peak MB"], rows))
    if results.names("forward"):
        parts += ["", forward_table(results.get("forward"))]
    return "\n".join(parts)


def _films(work: Path, kind: str, quick: bool) -> Path:
    count = COUNTS[kind.partition(":")[0]]
    return make_films(work, kind, 4 if quick else count)


def _copied(films: Path, folder: Path, count: int) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = sorted(films.iterdir())
    for number in range(count):
        shutil.copy(files[number % len(files)], folder / f"{number:05d}{files[0].suffix}")
    return folder


def _resnet(work: Path) -> Path:
    from encoders.checkpoint import save_checkpoint
    from encoders.dual import build_encoder

    folder = work / "resnet50"
    if not folder.is_dir():
        save_checkpoint(build_encoder("resnet50", texts=["small left pleural effusion"], dimension=512), folder)
    return folder


def _medret(records: list[Record], workers: int) -> None:
    for record, square in decode_squares(records, Preprocessing(size=224), 224, workers):
        if isinstance(square, str):
            raise SystemExit(f"{record.image}: {square}")


def _limit(path: Path, dicom: bool) -> None:
    if dicom:
        import pydicom

        assert pydicom.dcmread(path).pixel_array.size
        return
    with Image.open(path) as image:
        image.draft("L", (image.width // 8, image.height // 8))
        image.load()


class Plain:
    """The data set that one writes at first: a film as a normalised (3, 224, 224) float32 tensor."""

    def __init__(self, files: list[Path], dicom: bool) -> None:
        self.files, self.dicom = files, dicom

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> Any:
        import torch

        if self.dicom:
            import pydicom
            from pydicom.pixels import apply_modality_lut, apply_voi_lut

            film = pydicom.dcmread(self.files[place])
            values = np.asarray(apply_voi_lut(apply_modality_lut(film.pixel_array, film), film), np.float32)
            image = Image.fromarray(((values - values.min()) / max(np.ptp(values), 1) * 255).astype(np.uint8)).convert("RGB")
        else:
            image = Image.open(self.files[place]).convert("RGB")
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), np.float32) / 255
        return (torch.from_numpy(pixels).permute(2, 0, 1) - 0.5) / 0.25


def _plain(files: list[Path], dicom: bool, workers: int) -> None:
    for _ in _loader(files, dicom, workers):
        pass


def _loader(files: list[Path], dicom: bool, workers: int) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(Plain(files, dicom), batch_size=BATCH, num_workers=workers)  # type: ignore[arg-type]


def _child(films: str, checkpoint: str, out: str, *settings: str) -> None:
    """Encode all films once and print seconds, films, seconds until the first batch is done, and bytes resident at most."""
    import torch

    from encoders.checkpoint import load_checkpoint

    torch.set_num_threads(CORES)
    encoder = load_checkpoint(Path(checkpoint), "cpu").eval()
    marks: list[float] = []
    began = time.perf_counter()
    count = (partial(_child_medret, settings) if settings else _child_plain)(encoder, Path(films), Path(checkpoint), Path(out), marks)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + (0 if settings else resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    steady = {"films": count - marks[1], "seconds": ended - marks[0]} if count > marks[1] else {"films": count, "seconds": ended - began}
    print(json.dumps({**steady, "begun": marks[0] - began, "rss": peak * 1024}))
    os._exit(0)


def _child_plain(encoder: Any, films: Path, checkpoint: Path, out: Path, marks: list[float]) -> int:
    import torch

    model = encoder.image.model.to(memory_format=torch.contiguous_format)
    done = 0
    with torch.inference_mode():
        for pixels in _loader(sorted(films.iterdir()), False, CORES):
            features = encoder.image_head(model(pixels).last_hidden_state.mean(dim=(2, 3)))
            assert torch.nn.functional.normalize(features, dim=-1).isfinite().all()
            done += len(pixels)
            marks += [time.perf_counter(), done] if not marks else []
    return done


def _child_medret(settings: tuple[str, ...], encoder: Any, films: Path, checkpoint: Path, out: Path, marks: list[float]) -> int:
    from index.corpora.readers import open_corpus
    from index.encode import encode_corpus
    from index.encode_options import EncodeOptions

    shutil.rmtree(out, ignore_errors=True)

    def progress(modality: str, done: int, *others: int) -> None:
        if not marks and done:
            marks.extend([time.perf_counter(), done])

    chosen = EncodeOptions(batch_size=BATCH, compute=settings[0], compile="compiled" in settings)
    return encode_corpus(open_corpus(films), encoder, out, options=chosen, progress=progress).images


if __name__ == "__main__":
    main()
