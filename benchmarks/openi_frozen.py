"""The baseline of RESULTS.md, "OpenI": frozen encoders of photographs and of sentences, two linear heads learned on top."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from encoders.checkpoint import save_checkpoint
from encoders.device import choose_device
from encoders.dual import DualEncoder, build_encoder
from index.corpora.readers import open_corpus
from index.encode import EncodeOptions, encode_corpus
from index.shards import open_shards
from train.objectives.convirt import convirt_loss


def learn_frozen(openi: Path, out: Path, image_weights: str, text: str, seeds: int = 3) -> list[Path]:
    """Encode OpenI's train split once, learn the heads on its frontal films, and write a checkpoint for each seed.

    Args:
        openi: The corpus.
        out: Gets features/ (encoded once, resumably) and a checkpoint seed-N for each seed.
        image_weights: ImageNet weights of EfficientNet-Lite0.
        text: A folder of the BERT family.
        seeds: How many, from 0 on.
    """
    encoder = _build(image_weights, text, 0).eval().to(choose_device(None))
    encode_corpus(open_corpus(openi, "openi"), encoder, out / "features", options=EncodeOptions(vectors=("features",), splits=("train",)))
    films, words = _pairs(out / "features")
    folders = [out / f"seed-{seed}" for seed in range(seeds)]
    for seed, folder in enumerate(folders):
        encoder = _build(image_weights, text, seed)
        _learn(encoder, films, words, seed)
        save_checkpoint(encoder, folder)
    return folders


def _build(image_weights: str, text: str, seed: int) -> DualEncoder:
    return build_encoder(
        "efficientnet-lite0",
        text,
        image_weights=image_weights,
        text_pooling="mean",
        size=192,
        dimension=256,
        head="linear",
        max_tokens=96,
        seed=seed,
    )


def _pairs(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of the frontal films that have a report, (N, F), and of their reports, (N, G): unit norm, which heads do not see."""
    shards = open_shards(folder)
    images, reports = shards.table("images"), shards.table("reports")
    report_row = {study: row for row, study in enumerate(reports.column("study_id"))}
    rows = [
        (row, report_row[study])
        for row, (study, view) in enumerate(zip(images.column("study_id"), images.column("view"), strict=True))
        if view == "Frontal" and study in report_row
    ]
    films, words = np.array(rows).T
    return torch.from_numpy(images.vectors("features", films)), torch.from_numpy(reports.vectors("features", words))


def _learn(encoder: DualEncoder, films: torch.Tensor, words: torch.Tensor, seed: int, epochs: int = 40) -> None:
    """Learn both heads: ConVIRT's loss at equal weights, 40 epochs of batches of 64."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW([*encoder.image_head.parameters(), *encoder.text_head.parameters()], lr=1e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for batch in torch.randperm(len(films)).split(64):
            images = F.normalize(encoder.image_head(films[batch]), dim=1)
            texts = F.normalize(encoder.text_head(words[batch]), dim=1)
            loss = convirt_loss(images, texts, 0.1, 0.5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
