import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from handmade_corpora import labelled, paired, table_corpus

from encoders.dual import build_encoder
from train.card import checkpoint_notes, data_notes, render_card
from train.config import TrainConfig, load_config
from train.data import TrainingData, load_training_data
from train.run import start_encoder
from train.samples import Source, collect_samples

ROW = {"step": 40, "epoch": 2.0, "lr": 1e-4, "train_loss": 2.5, "validation_loss": 2.25, "mrr": 0.125, "seconds": 3.0, "waiting": 0.1}


def small_data(folder: Path, config: TrainConfig) -> TrainingData:
    pairs = [paired(number, text=f"Mister Smith has edema {number}.", Edema="1") for number in range(6)]
    films = [labelled(number, Edema="1") for number in range(6)] + [labelled(6)]
    sources = [Source(table_corpus(folder / "pairs", pairs), 3)]
    if config.objective != "convirt":
        sources.append(Source(table_corpus(folder / "films", films), 1))
    samples = collect_samples(sources, objective=config.objective)
    return load_training_data(samples, start_encoder(config, samples).config.preprocessing, folder / "cache")


def card_of(folder: Path, chosen_by: str | None = None, row: dict[str, float] = ROW, **changes: object) -> str:
    config = load_config(None, **{"objective": "umcl", "size": 32, **changes})
    data = small_data(folder, replace(config, start=""))
    encoder = build_encoder(texts=["words"], size=32)
    notes = checkpoint_notes(encoder, config, data, 50, row, 0.05)
    return render_card(json.loads(json.dumps(notes)), chosen_by)


def test_a_card_tells_of_data_settings_figures_and_limits_and_names_no_path_and_nobody(tmp_path):
    card = card_of(tmp_path, chosen_by="mrr", start="/home/doctor/secret-run", batch_size=16)

    assert [line for line in card.splitlines() if line.startswith("#")] == [
        "# An encoder of chest radiographs and reports",
        *("## Data", "## Settings", "## Figures", "## Limits"),
    ]
    assert "For research only. It is no medical device and must not be used to diagnose." in card
    assert "| table | 4 | 4 | 4 | 2 | 75% |" in card  # two patients are held out, so that there are two studies
    assert "Left out of corpus 2 (table): 1 no report of 3 tokens and no positive label." in card
    assert "Labels: Edema; uncertain labels counted as absent. Where they come from: table: columns of a table" in card
    assert "batch_size = 16" in card and "start = secret-run" in card and "Begun from secret-run." in card
    assert "Temperature: learned, from 0.1 to 0.05." in card
    assert "| mrr | 0.125 |" in card and "| validation loss | 2.25 |" in card and "waiting" not in card
    assert "taken 10 steps since" in card
    assert "the best mrr" in card
    assert "/home" not in card and str(tmp_path) not in card and "Smith" not in card


def test_a_card_says_what_mirrored_films_and_missing_figures_mean(tmp_path):
    card = card_of(tmp_path, row={}, flip_probability=0.5, objective="convirt")

    assert "50% were mirrored: it cannot tell left from right" in card
    assert "Not measured" in card
    assert "Labels were not learned from" in card
    assert "Temperature: 0.05, fixed." in card


def test_what_was_left_out_is_told_by_corpus(tmp_path):
    data = small_data(tmp_path, load_config(None, objective="umcl", size=32))

    assert data_notes(data)[-1] == "Left out of corpus 2 (table): 1 no report of 3 tokens and no positive label."
    assert len(np.unique(data.train.sources)) == 2
