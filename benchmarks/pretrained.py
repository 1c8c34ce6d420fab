"""Make encoders/pretrained, the default encoder, from a finished run: smaller, with its model card and its licence.

python benchmarks/pretrained.py RUN/last OPENI encoders/pretrained --published TEXT
python benchmarks/openi.py OPENI --run default=encoders/pretrained --json default.json
python benchmarks/pretrained.py RUN/last OPENI encoders/pretrained --published TEXT --metrics default.json

The word table is cut to the pieces that the training reports, the built-in prompts and a list of plain words use, and weights
are rounded to float16. The second call gives the same encoder and writes its figures into the card: figures of another are refused.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from openi_measures import WORDED
from pretrained_card import render_card, render_licence

from encoders.atomic import whole_file
from encoders.checkpoint import find_checkpoint, load_checkpoint, read_notes, save_checkpoint
from encoders.dual import DualEncoder
from encoders.errors import MedretError
from encoders.tokens import Tokenizer, load_pretrained_tokenizer
from encoders.vocabulary import cut_vocabulary
from index.corpora.prompts import FINDING_PROMPTS
from index.corpora.readers import open_corpus
from index.corpora.report import report_text

MOST_BYTES = 40_000_000
PLAIN = (  # what people ask in, that reports may not say: each word stays a piece of its own, where the encoder had it as one
    "big bigger large larger huge small smaller tiny mild moderate severe slight normal abnormal healthy sick ill",
    "swollen enlarged widened narrowed shifted displaced collapsed broken cracked bent twisted blocked hidden missing",
    "heart lung lungs chest rib ribs spine shoulder collarbone clavicle diaphragm stomach breast bone bones airway windpipe throat",
    "left right both sides bilateral upper middle lower top bottom base apex front back lateral frontal portable supine standing",
    "fluid water pus blood air gas around outside inside behind beneath under above near in on of the with without and or no not",
    "heart failure congestive pulmonary edema wet lungs congestion overload pneumonia infection infiltrate consolidation opacity",
    "tuberculosis cancer tumour tumor nodule mass metastasis metastases lesion spot shadow white black dark bright patch patchy",
    "collapsed lung pneumothorax hydropneumothorax effusion hemothorax empyema hydrothorax pleural thickening plaque calcified",
    "asthma emphysema copd bronchitis fibrosis scarring scar granuloma sarcoidosis silicosis asbestosis hernia hiatal scoliosis",
    "atelectasis aneurysm aorta aortic mediastinum hilar hilum enlargement cardiomegaly silhouette fracture dislocation arthritis",
    "pacemaker defibrillator wire wires lead leads tube tubes line lines catheter drain port stent valve clip clips staples sutures",
    "sternotomy surgery operation implant prosthesis device devices feeding breathing endotracheal tracheostomy nasogastric picc",
    "old young man woman male female child adult elderly smoker trauma accident fall cough fever pain breath shortness bleeding",
    "x-ray radiograph film image picture show find similar patient finding findings impression unchanged improved worse new old",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Cut, check, write, check again."""
    given = _parse(arguments)
    encoder = load_checkpoint(find_checkpoint(given.run))
    notes = read_notes(find_checkpoint(given.run))
    if notes["training"]["config"]["flip_probability"]:
        raise SystemExit(f"{given.run}: learned from mirrored films, so left is right to it; choose a run with flip_probability = 0")
    texts = _texts(given.openi)
    smaller = cut_vocabulary(encoder, texts)
    _check_pieces(smaller.tokenizer, load_pretrained_tokenizer(given.published))
    mark = save_checkpoint(smaller, given.out, notes, dtype="float16", files={"LICENSE": render_licence(notes["training"])})
    _check_size(given.out)
    metrics = None if given.metrics is None else _figures_of(mark, json.loads(given.metrics.read_text(encoding="utf-8")), given.metrics)
    made = {
        "fingerprint": mark,
        "megabytes": _bytes(given.out) / 1e6,
        "pieces": _count(smaller.tokenizer),
        "pieces before": _count(encoder.tokenizer),
        "cosine": _alike(encoder, load_checkpoint(given.out)),
    }
    with whole_file(given.out / "MODEL_CARD.md") as beside:
        beside.write_text(render_card(made, encoder, notes["training"], metrics), encoding="utf-8")
    _open_to_all(given.out)
    print(", ".join(f"{name} {value}" for name, value in made.items()))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the checkpoint to make it from, such as RUN/last")
    parser.add_argument("openi", type=Path, help="the corpus that it learned from")
    parser.add_argument("out", type=Path, help="encoders/pretrained")
    parser.add_argument("--published", type=Path, required=True, help="folder of the published text encoder that the run began with")
    parser.add_argument("--metrics", type=Path, help="what openi.py --json measured of OUT")
    return parser.parse_args(arguments)


def _texts(openi: Path) -> list[str]:
    """The reports of the train split, the built-in and the worded prompts, and plain words."""
    records = open_corpus(openi, "openi").records()
    reports = dict.fromkeys(report_text(record.sections) for record in records if record.split == "train")
    asked = [text for prompts in (FINDING_PROMPTS, WORDED) for texts in prompts.values() for text in texts]
    return [text for text in [*reports, *FINDING_PROMPTS, *asked, *PLAIN] if text]


def _check_pieces(tokenizer: Tokenizer, published: Tokenizer) -> None:
    """A vocabulary learned from reports could hold words of theirs; one cut from a published one cannot."""
    foreign = _vocabulary(tokenizer).keys() - _vocabulary(published).keys()
    if foreign:
        raise SystemExit(f"{len(foreign)} pieces of the tokenizer are not among those of --published: it must not be given away")


def _vocabulary(tokenizer: Tokenizer) -> Mapping[str, int]:
    definition: Any = json.loads(tokenizer.definition)
    added = {token["content"]: token["id"] for token in definition["added_tokens"]}
    return {**definition["model"]["vocab"], **added}


def _count(tokenizer: Tokenizer) -> int:
    return len(_vocabulary(tokenizer))


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _check_size(folder: Path) -> None:
    if _bytes(folder) > MOST_BYTES:
        raise SystemExit(f"{folder}: {_bytes(folder) / 1e6:.1f} MB, expected at most {MOST_BYTES / 1e6:.0f}; train a smaller encoder")


def _figures_of(mark: str, measured: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The figures of the encoder with this fingerprint, measured alone; those of any other say nothing of it."""
    for run in measured["runs"].values():
        if [seed["encoder"] for seed in run["seeds"]] == [mark]:
            figures = {name: measured[name] for name in ("date", "torch", "device", "corpus", "prompts")}
            return {**figures, **run["seeds"][0], "worded": run["worded"]}
    raise SystemExit(f"{path}: holds no figures of encoder {mark} alone; measure it: openi.py OPENI --run default=OUT --json {path}")


def _alike(before: DualEncoder, after: DualEncoder) -> float:
    """The lowest cosine between the vectors of an encoder and of its smaller copy: of the prompts, and of films of noise."""
    texts = [text for prompts in (FINDING_PROMPTS, WORDED) for asked in prompts.values() for text in asked]
    size = before.config.preprocessing.size
    films = torch.randint(0, 256, (8, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pairs = [
            (before.encode_texts(texts).joint, after.encode_texts(texts).joint),
            (before.encode_images(films).joint, after.encode_images(films).joint),
        ]
    return min(float((first * second).sum(dim=1).min()) for first, second in pairs)


def _open_to_all(folder: Path) -> None:
    """Checkpoints are their owner's alone; this one is installed for everybody."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    try:
        main()
    except MedretError as error:
        raise SystemExit(f"{error}") from None
