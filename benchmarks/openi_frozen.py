"""The baseline of RESULTS.md, "OpenI": frozen encoders, two linear heads, InfoNCE, on the split and films of openi.sh.

OPENI=... IMAGE_WEIGHTS=... TEXT=... python benchmarks/openi_frozen.py OUT
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from encoders.checkpoint import save_checkpoint
from encoders.dual import build_encoder
from index.corpora.readers import open_corpus
from index.encode import EncodeOptions, encode_corpus
from index.shards import open_shards
from retrieval.metrics import first_match_ranks, median_rank, recall_at_k
from retrieval.qrels import number_texts
from train.objectives.convirt import convirt_loss


def main(out: Path) -> None:
    """Encode OpenI once, learn the heads on train, rank the frontal films of validate."""
    encoder = build_encoder(
        "efficientnet-lite0", os.environ["TEXT"], image_weights=os.environ["IMAGE_WEIGHTS"], text_pooling="mean", size=192, max_tokens=96
    )
    save_checkpoint(encoder, out / "encoder")
    encode_corpus(open_corpus(Path(os.environ["OPENI"])), encoder.eval(), out / "shards", options=EncodeOptions(vectors=("features",)))
    shards = open_shards(out / "shards")
    images, reports = shards.table("images"), shards.table("reports")
    report_row = {study: row for row, study in enumerate(reports.column("study_id"))}
    frontal = np.array([view == "Frontal" for view in images.column("view")])
    paired = np.array([study in report_row for study in images.column("study_id")])
    rows = {split: np.flatnonzero(frontal & paired & (images.column("split") == split)) for split in ("train", "validate")}
    own = {split: np.array([report_row[study] for study in images.column("study_id")[chosen]]) for split, chosen in rows.items()}
    texts = np.array(reports.column("text"), dtype=object)
    films = {split: torch.from_numpy(images.vectors("features", chosen)) for split, chosen in rows.items()}
    words = {split: torch.from_numpy(reports.vectors("features", chosen)) for split, chosen in own.items()}
    for seed in range(3):
        heads = learn(films["train"], words["train"], seed)
        with torch.inference_mode():
            image_vectors = F.normalize(heads[0](films["validate"]), dim=1).numpy()
            text_vectors = F.normalize(heads[1](words["validate"]), dim=1).numpy()
        numbers = number_texts(list(texts[own["validate"]]))
        unique = np.unique(numbers, return_index=True)[1]
        scores = text_vectors[unique] @ image_vectors.T  # (texts, images)
        ranks = first_match_ranks(scores, np.arange(len(unique)), numbers)
        back = first_match_ranks(scores.T, numbers, np.arange(len(unique)))
        print(
            f"seed {seed}: {len(unique)} texts, {len(image_vectors)} films; text → image R@10 {recall_at_k(ranks, 10):.3f}, "
            f"median rank {median_rank(ranks):.0f}; image → text R@10 {recall_at_k(back, 10):.3f}, median rank {median_rank(back):.0f}"
        )


def learn(films: torch.Tensor, words: torch.Tensor, seed: int, epochs: int = 40) -> torch.nn.ModuleList:
    """Two linear heads to 256 dimensions, ConVIRT's loss at equal weights, 40 epochs of batches of 64."""
    torch.manual_seed(seed)
    heads = torch.nn.ModuleList([torch.nn.Linear(films.shape[1], 256), torch.nn.Linear(words.shape[1], 256)])
    optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for batch in torch.randperm(len(films)).split(64):
            loss = convirt_loss(F.normalize(heads[0](films[batch]), dim=1), F.normalize(heads[1](words[batch]), dim=1), 0.1, 0.5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return heads.eval()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
