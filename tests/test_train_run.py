import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_train_trainer import CONFIG as CORNER_CONFIG
from test_train_trainer import write_corpus

from encoders.checkpoint import fingerprint, load_checkpoint, read_fingerprint
from encoders.dual import DualEncoder
from encoders.errors import MedretError
from index.corpora.readers import open_corpus
from train.config import TrainConfig, load_config
from train.run import start_encoder, train_corpora
from train.samples import Source, collect_samples
from train.sources import load_sources
from train.trainer import TrainResult

FINDINGS = ("Atelectasis", "Edema", "Fracture", "Pneumonia")  # each is a bright corner of the film
SAID = {"Atelectasis": "left upper", "Edema": "right upper", "Fracture": "left lower", "Pneumonia": "right lower"}
CONFIG = replace(CORNER_CONFIG, objective="medclip", temperature=0.07, findings=FINDINGS)
PROMPTS = {"objective": "umcl", "prompts": "continuous", "prompt_length": 3}


def write_films_and_reports(folder: Path) -> list[Source]:
    """Two corpora: films with labels, and reports with labels. No film has a report."""
    rng = np.random.default_rng(0)
    with (folder / "films.csv").open("w", newline="") as films, (folder / "reports.csv").open("w", newline="") as reports:
        film_writer, report_writer = csv.writer(films), csv.writer(reports)
        film_writer.writerow(["path", "patient", "split", *FINDINGS])
        report_writer.writerow(["id", "text", "patient", "split", *FINDINGS])
        for number in range(32):
            place = number % 4
            film = rng.integers(0, 60, (40, 40), dtype=np.uint8)
            film[3 + 20 * (place // 2) : 17 + 20 * (place // 2), 3 + 20 * (place % 2) : 17 + 20 * (place % 2)] += 180
            Image.fromarray(film).save(folder / f"film{number}.png")
            labels, split = [int(other == place) for other in range(4)], "validate" if number >= 24 else "train"
            film_writer.writerow([f"film{number}.png", f"p{number}", split, *labels])
            report_writer.writerow([f"r{number}", f"Opacity of the {SAID[FINDINGS[place]]} zone.", f"q{number}", split, *labels])
    return [Source(open_corpus(folder / "films.csv")), Source(open_corpus(folder / "reports.csv"))]


def share_found(run: Path, result: TrainResult) -> float:
    """Share of held-out films whose nearest sentence of the four is that of their corner."""
    encoder = load_checkpoint(result.last)
    films = np.stack([np.array(Image.open(run / f"film{number}.png")) for number in range(24, 32)])
    squares = torch.from_numpy(np.stack([encoder.config.preprocessing.square(film) for film in films]))
    with torch.inference_mode():
        texts = encoder.encode_texts([f"Opacity of the {SAID[finding]} zone." for finding in FINDINGS]).joint
        nearest = (encoder.encode_images(squares).joint @ texts.T).argmax(dim=1).tolist()
    return float(np.mean([place == number % 4 for number, place in enumerate(nearest)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    write_films_and_reports(folder)
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def mix(folder: Path) -> list[Source]:
    return [Source(open_corpus(folder / "films.csv")), Source(open_corpus(folder / "reports.csv"))]


@pytest.fixture(scope="module")
def started(folder: Path, mix: list[Source]) -> Path:
    """A short run whose encoder others begin from."""
    out = folder / "started"
    train_corpora(mix, replace(CONFIG, epochs=1), out, cache_folder=folder / "cache")
    return out


def settings(**changes: object) -> TrainConfig:
    return load_config(None, **{"objective": "umcl", "temperature": 0.07, "epochs": 1, "batch_size": 8, **changes})


@pytest.mark.parametrize("changes", [{"objective": "medclip", "soft_target_temperature": 0.1}, {"objective": "umcl", "relation": "equal"}])
def test_films_and_reports_of_different_patients_are_brought_together_by_their_labels(tmp_path, folder, mix, changes):
    config = replace(CONFIG, epochs=30, learning_rate=2e-3, validate_every=90, **changes)

    result = train_corpora(mix, config, tmp_path / "run", cache_folder=folder / "cache")

    assert share_found(folder, result) >= 0.75  # chance is 0.25
    assert result.best_row["temperature"] != pytest.approx(0.07, abs=1e-4)
    assert [(source.path, source.weight) for source in load_sources(tmp_path / "run" / "config.toml")] == [
        (str(folder / "films.csv"), 0),
        (str(folder / "reports.csv"), 0),
    ]


def test_a_pair_corpus_and_a_labelled_one_are_learned_from_together(tmp_path, folder, mix):
    pairs = Source(open_corpus(folder / "table.csv"), 3)

    result = train_corpora([pairs, replace(mix[0], weight=1)], settings(size=32, findings=("Edema",)), tmp_path / "run")

    assert result.stopped == "finished"
    assert "corpus 2 (table): 24 no report of 3 tokens and no positive label" in " ".join(result.notes)


def test_learning_prompts_alone_leaves_the_encoder_as_it_was_and_so_every_index_of_it(tmp_path, folder, mix, started):
    config = settings(start=str(started), learn="prompts", learning_rate=0.05, **PROMPTS)

    result = train_corpora(mix[:1], config, tmp_path / "run", cache_folder=folder / "cache")

    assert read_fingerprint(result.last) == read_fingerprint(result.best) == read_fingerprint(started / "best")
    assert fingerprint(load_checkpoint(result.last)) == read_fingerprint(started / "best")
    learned = load_checkpoint(result.last)
    assert learned.prompts is not None and set(learned.prompts.config.names) == set(FINDINGS)
    fresh = start_encoder(config, collect_samples(mix[:1], objective="umcl"))
    assert fresh.prompts is not None
    assert not torch.allclose(learned.prompts.context, fresh.prompts.context, atol=0.02)


def test_prompts_are_learned_on_begin_anew_in_another_form_or_are_dropped_where_none_are_asked_for(tmp_path, folder, mix, started):
    first = settings(start=str(started), **PROMPTS)
    train_corpora(mix, first, tmp_path / "run", cache_folder=folder / "cache")
    samples, before = collect_samples(mix, objective="umcl"), load_checkpoint(tmp_path / "run" / "best").prompts

    same = start_encoder(replace(first, start=str(tmp_path / "run")), samples).prompts
    other = start_encoder(replace(first, start=str(tmp_path / "run"), prompt_position="front"), samples).prompts
    none = start_encoder(replace(first, start=str(tmp_path / "run"), prompts="words"), samples)

    assert before is not None and same is not None and other is not None
    assert torch.equal(same.context, before.context)
    assert other.config.position == "front"
    assert none.prompts is None and not any("prompts" in name for name in none.state_dict())


def test_a_run_begins_from_a_checkpoint_with_its_tokenizer_and_preprocessing(tmp_path, folder, mix, started):
    result = train_corpora(mix, settings(start=str(started)), tmp_path / "run", cache_folder=folder / "cache")

    before, after = load_checkpoint(started / "best"), load_checkpoint(result.last)
    assert after.config == before.config
    assert after.tokenizer.definition == before.tokenizer.definition
    assert fingerprint(after) != fingerprint(before)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"size": 64}, r"size = 64 is asked for, but the encoder to start from has size = 32"),
        ({"text_pooling": "mean"}, r"text_pooling = 'mean' .* has text_pooling = 'max'"),
        ({"image": "resnet50"}, r"image = 'resnet50' .* brings its own encoders, tokenizer and preprocessing"),
        ({"vocabulary_size": 100}, r"vocabulary_size = 100 .* brings its own"),
    ],
)
def test_a_setting_that_asks_for_another_encoder_than_the_one_to_start_from_is_refused(tmp_path, mix, started, asked, message):
    with pytest.raises(MedretError, match=message) as error:
        train_corpora(mix, settings(start=str(started), **asked), tmp_path / "run")

    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_setting_that_the_encoder_to_start_from_has_anyway_is_no_conflict(mix, started):
    samples = collect_samples(mix, objective="umcl")

    assert start_encoder(settings(start=str(started), size=32, dimension=16, max_tokens=16), samples).dimension == 16


def test_a_tokenizer_that_does_not_fit_the_checkpoint_is_refused_in_one_line(tmp_path, mix, started):
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    definition = json.loads((started / "best" / "tokenizer.json").read_text())
    rows = len(definition["model"]["vocab"])
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=rows - 1, **sizes)).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").write_text(json.dumps(definition))

    with pytest.raises(MedretError, match=rf"token id {rows - 1} of the tokenizer.*Get the tokenizer that belongs") as error:
        train_corpora(mix, settings(size=32, text=str(tmp_path / "bert")), tmp_path / "run")

    assert "\n" not in str(error.value)


def test_a_label_that_no_corpus_has_and_prompts_without_labels_are_refused_before_films_are_decoded(tmp_path, folder, mix):
    with pytest.raises(MedretError, match=r"no label Cardiomegaly in any corpus\. Labelled are: Edema, "):
        train_corpora(mix, settings(size=32, findings=["Cardiomegaly"]), tmp_path / "run")
    with pytest.raises(MedretError, match="no corpus labels a finding"):
        train_corpora([Source(open_corpus(folder / "table.csv"))], settings(size=32, **PROMPTS), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["convirt-published", "medclip-published", "umcl-published"])
def test_each_ready_configuration_trains_with_smaller_encoders(tmp_path, folder, mix, name):
    small = {"image": "tiny", "text": "tiny", "size": 32, "cache_size": 36, "dimension": 8, "max_tokens": 16, "freeze_text_layers": 0}
    config = load_config(Path(name), **small, batch_size=8, epochs=0, max_steps=2, prompt_length=2, min_tokens=3)
    sources = [Source(open_corpus(folder / "table.csv"))] if name.startswith("convirt") else mix

    result = train_corpora(sources, config, tmp_path / "run", cache_folder=folder / "cache")

    assert (result.stopped, result.steps) == ("finished", 2)


def test_a_run_writes_events_that_tensorboard_reads_and_hides_those_of_steps_that_were_lost(tmp_path, folder, mix):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class KilledError(Exception):
        pass

    def kill(step: int, total: int, loss: float) -> None:
        losses.append(loss)
        if len(losses) == 5:
            raise KilledError

    losses: list[float] = []
    config = settings(size=32, tensorboard=True, epochs=2)
    rows: list[Mapping[str, float]] = []
    with pytest.raises(KilledError):
        train_corpora(mix, config, tmp_path / "run", progress=kill, report=rows.append)
    train_corpora(mix, config, tmp_path / "run", progress=lambda step, total, loss: losses.append(loss), report=rows.append, resume=True)

    events = EventAccumulator(str(tmp_path / "run" / "events")).Reload()
    steps = events.Scalars("step/loss")
    assert [event.step for event in steps] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in steps] == pytest.approx(losses[:3] + losses[5:])
    assert [event.value for event in events.Scalars("validation/validation_loss")] == pytest.approx(
        [row["validation_loss"] for row in rows]
    )
    assert {path.stat().st_mode & 0o077 for path in [tmp_path / "run" / "events", *(tmp_path / "run" / "events").iterdir()]} == {0}


def test_a_missing_tensorboard_is_told_before_any_work(tmp_path, mix, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # what Python does for a package that is not there

    with pytest.raises(MedretError, match=r"tensorboard is not installed.*pip install 'medret\[tensorboard\]'"):
        train_corpora(mix, settings(tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_runs_do_not_write_into_one_folder_at_a_time(tmp_path, folder, mix):
    def begin_another(step: int, total: int, loss: float) -> None:
        with pytest.raises(MedretError, match="another medret is writing here"):
            train_corpora(mix, settings(size=32), tmp_path / "run", resume=True)

    assert train_corpora(mix, settings(size=32), tmp_path / "run", cache_folder=folder / "cache", progress=begin_another).steps == 3


def test_activations_computed_again_change_nothing(tmp_path, folder, mix):
    def last(**changes: object) -> DualEncoder:
        config = settings(size=32, batchnorm="running", **changes)
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        return load_checkpoint(train_corpora(mix, config, out, cache_folder=folder / "cache").last)

    assert fingerprint(last(activation_checkpointing=True)) == fingerprint(last())
