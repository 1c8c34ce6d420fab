import csv
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.checkpoint import fingerprint, load_checkpoint, read_notes
from encoders.dual import DualEncoder, build_encoder
from encoders.errors import MedretError
from index.corpora.readers import Corpus, open_corpus
from train.config import TrainConfig, load_config
from train.data import ImageSet, TrainingData, load_training_data
from train.objective import Objective
from train.objectives.convirt import convirt_loss
from train.parameters import build_optimizer, prepare_encoder
from train.run import start_encoder, train_corpora
from train.samples import Source, collect_samples
from train.sources import describe_source, load_sources
from train.trainer import TrainResult, train_encoder

CORNERS = {"left upper": (0, 0), "right upper": (0, 1), "left lower": (1, 0), "right lower": (1, 1)}
CONFIG = TrainConfig(
    size=32,
    dimension=16,
    max_tokens=16,
    texts_per_image=1,
    epochs=2,
    batch_size=8,
    crop=(0.9, 1.0),
    rotation=3,
    translation=0.02,
    blur_sigma=(0.0, 0.3),
)


def write_corpus(folder: Path) -> Corpus:
    """Films with a bright spot in a corner, and a sentence that names the corner."""
    rng = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text", "patient", "study", "split"])
        for number in range(32):
            name, (down, right) = list(CORNERS.items())[number % 4]
            film = rng.integers(0, 60, (40, 40), dtype=np.uint8)
            film[3 + 20 * down : 17 + 20 * down, 3 + 20 * right : 17 + 20 * right] += 180
            Image.fromarray(film).save(folder / f"{number}.png")
            split = "validate" if number >= 24 else "train"
            writer.writerow([f"{number}.png", f"Opacity of the {name} zone.", f"p{number}", f"s{number}", split])
    return open_corpus(folder / "table.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return open_corpus(folder / "table.csv")


@pytest.fixture(scope="module")
def data(folder: Path, corpus: Corpus) -> TrainingData:
    samples = collect_samples([Source(corpus)])
    return load_training_data(samples, start_encoder(CONFIG, samples).config.preprocessing, folder / "cache")


def new_encoder(data: TrainingData, config: TrainConfig = CONFIG) -> DualEncoder:
    texts = [" ".join(sentences) for sentences in data.train.sentences]
    return build_encoder("tiny", "tiny", texts, size=32, dimension=config.dimension, max_tokens=config.max_tokens, seed=config.seed)


def train(data: TrainingData, out: Path, config: TrainConfig = CONFIG, **options: object) -> TrainResult:
    return train_encoder(new_encoder(data, config), data, config, out, **options)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def own_corner_first(images: ImageSet) -> Callable[[DualEncoder], Mapping[str, float]]:
    """Share of films whose nearest of the four sentences is their own."""

    def validate(encoder: DualEncoder) -> Mapping[str, float]:
        assert not encoder.training
        sentences = [f"Opacity of the {name} zone." for name in CORNERS]
        with torch.inference_mode():
            films = encoder.encode_images(torch.from_numpy(images.films[:])).joint
            nearest = (films @ encoder.encode_texts(sentences).joint.T).argmax(dim=1).tolist()
        return {"accuracy": float(np.mean([sentences[place] == own[0] for place, own in zip(nearest, images.sentences, strict=True)]))}

    return validate


def test_a_run_learns_to_tell_the_corners_and_leaves_all_that_it_should(tmp_path, corpus):
    config = replace(CONFIG, epochs=20, learning_rate=2e-3, validate_every=15)
    steps: list[tuple[int, int]] = []
    validated: list[Mapping[str, float]] = []
    run = tmp_path / "run"

    result = train_corpora(
        [Source(corpus)],
        config,
        run,
        validator=own_corner_first,
        progress=lambda step, total, loss: steps.append((step, total)),
        report=validated.append,
    )

    assert result.stopped == "finished"
    assert result.best_row["accuracy"] >= 0.85  # chance is 0.25
    assert steps == [(step, 60) for step in range(1, 61)]
    lying = sorted(path.name for path in run.iterdir())
    assert lying == [".lock", "best", "cache", "config.toml", "curves.png", "last", "metrics.csv", "state"]
    assert {path.stat().st_mode & 0o077 for path in [run, *run.rglob("*")]} == {0}
    assert 0 <= result.waiting < 1
    rows = rows_of(run)
    assert len(rows) == len(validated) == 4
    assert [int(row["step"]) for row in rows] == [15, 30, 45, 60]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert load_config(run / "config.toml") == config
    assert load_sources(run / "config.toml") == (describe_source(corpus),)
    again = load_training_data(collect_samples([Source(corpus)]), load_checkpoint(run / "best").config.preprocessing, run / "cache")
    best = own_corner_first(again.validate)
    assert best(load_checkpoint(run / "best"))["accuracy"] == max(float(row["accuracy"]) for row in rows)


def test_a_checkpoint_notes_its_making_without_any_path(tmp_path, data):
    result = train(data, tmp_path / "run")

    notes = read_notes(result.last)["training"]
    assert notes["step"] == result.steps
    counts = {"images": 24, "studies": 24, "texts": 24, "validation_images": 8, "left_out": {}}
    assert notes["corpora"] == [{"format": "table", "weight": 24, **counts}]
    assert notes["config"]["batch_size"] == 8
    assert notes["metrics"]["validation_loss"] > 0
    assert str(tmp_path) not in json.dumps(notes)


def test_an_interrupted_run_resumes_to_the_very_weights_of_an_uninterrupted_one(tmp_path, data):
    config = replace(CONFIG, epochs=4, validate_every=5, text_sample="sentences", texts_per_image=2)
    whole = train(data, tmp_path / "whole", config)
    before = signal.getsignal(signal.SIGINT)

    def interrupt_at_7(step: int, total: int, loss: float) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    broken = train(data, tmp_path / "broken", config, progress=interrupt_at_7)
    assert (broken.stopped, broken.steps) == ("interrupted", 7)
    assert signal.getsignal(signal.SIGINT) is before
    assert load_checkpoint(broken.last).dimension == 16

    torch.manual_seed(123)  # a new process has other random numbers in store
    resumed = train_encoder(load_checkpoint(broken.last), data, config, tmp_path / "broken", resume=True)
    assert (resumed.stopped, resumed.steps) == ("finished", whole.steps)
    assert fingerprint(load_checkpoint(resumed.last)) == fingerprint(load_checkpoint(whole.last))
    assert fingerprint(load_checkpoint(resumed.best)) == fingerprint(load_checkpoint(whole.best))
    for ours, theirs in zip(rows_of(tmp_path / "broken"), rows_of(tmp_path / "whole"), strict=True):
        for column in ("step", "epoch", "lr", "train_loss", "validation_loss"):
            assert ours[column] == theirs[column]


def test_a_run_killed_between_validations_resumes_from_the_last_of_them(tmp_path, data):
    class KilledError(Exception):
        pass

    def kill_at_5(step: int, total: int, loss: float) -> None:
        if step == 5:
            raise KilledError

    whole = train(data, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(data, tmp_path / "broken", progress=kill_at_5)
    seen: list[int] = []
    resumed = train(data, tmp_path / "broken", resume=True, progress=lambda step, total, loss: seen.append(step))

    assert seen == [4, 5, 6]  # three steps an epoch, validated after each
    assert fingerprint(load_checkpoint(resumed.last)) == fingerprint(load_checkpoint(whole.last))


def test_a_finished_run_is_not_overwritten_unless_told_and_resuming_it_changes_nothing(tmp_path, data):
    run = tmp_path / "run"
    first = train(data, run)
    before = (run / "metrics.csv").read_bytes()

    with pytest.raises(MedretError, match=r"run \(step 6, finished\).*--resume.*--overwrite"):
        train(data, run)
    again = train(data, run, resume=True)
    assert (again.stopped, again.steps, again.best_row) == ("finished", first.steps, first.best_row)
    assert (run / "metrics.csv").read_bytes() == before

    (run / "cache").mkdir()
    anew = train(data, run, replace(CONFIG, epochs=1), overwrite=True)
    assert anew.steps == 3
    assert len(rows_of(run)) == 1
    assert (run / "cache").is_dir()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", ["thesis.txt", "config.toml", "best/weights.bin", "state/state.json", "metrics.csv"])
def test_a_folder_of_other_things_is_left_alone(tmp_path, data, name, options):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("epochs = 3\n")

    with pytest.raises(MedretError, match=rf"is no training run and not empty \(it holds {Path(name).parts[0]}\)"):
        train(data, tmp_path, **options)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [Path(name)]
    assert (tmp_path / name).read_text() == "epochs = 3\n"


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_a_run_killed_before_its_first_validation_can_be_begun_again(tmp_path, data, options):
    def kill(step: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    (run / "cache").mkdir(parents=True)
    (run / ".hidden").touch()
    with pytest.raises(KeyboardInterrupt):
        train(data, run, progress=kill)

    with pytest.raises(MedretError, match="before its first validation"):
        train(data, run)
    assert train(data, run, replace(CONFIG, epochs=1), **options).steps == 3


def test_a_run_is_not_resumed_with_other_settings_or_other_pairs(tmp_path, data):
    train(data, tmp_path / "run")

    with pytest.raises(MedretError, match=r"batch_size = 8, but 4 .*config\.toml"):
        train(data, tmp_path / "run", replace(CONFIG, batch_size=4), resume=True)
    assert train(data, tmp_path / "run", replace(CONFIG, workers=3), resume=True).steps == 6
    fewer = replace(data, validate=replace(data.validate, sentences=[("Another sentence.",)] * 8))
    with pytest.raises(MedretError, match="other data"):
        train_encoder(new_encoder(data), fewer, CONFIG, tmp_path / "run", resume=True)


def test_a_state_cut_in_half_is_refused_in_one_line(tmp_path, data):
    train(data, tmp_path / "run")
    weights = tmp_path / "run" / "state" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(MedretError, match="damaged") as error:
        train(data, tmp_path / "run", resume=True)
    assert "\n" not in str(error.value)


def test_the_best_checkpoint_is_that_of_the_highest_first_metric_and_patience_ends_the_run(tmp_path, data):
    scores = iter([0.1, 0.5, 0.3, 0.5, 0.4, 0.9, 0.9])

    result = train(
        data, tmp_path / "run", replace(CONFIG, epochs=7, patience=3), validate=lambda encoder: {"score": next(scores), "other": 1.0}
    )

    assert (result.stopped, result.metric, result.steps) == ("early", "score", 15)
    assert result.best_row["score"] == 0.5
    assert read_notes(result.best)["training"]["step"] == 6
    assert train(data, tmp_path / "run", replace(CONFIG, epochs=7, patience=3), resume=True).stopped == "early"


@pytest.mark.parametrize(("best_by", "validate"), [("retrieval", None), ("loss", lambda encoder: {"score": 1.0})])
def test_without_a_metric_or_when_asked_the_lowest_validation_loss_is_best(tmp_path, data, best_by, validate):
    result = train(data, tmp_path / "run", replace(CONFIG, epochs=5, best_by=best_by), validate=validate)

    losses = [float(row["validation_loss"]) for row in rows_of(tmp_path / "run")]
    assert result.metric == "validation_loss"
    assert result.best_row["validation_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_the_validation_loss_is_that_of_the_held_out_pairs_as_they_are(tmp_path, data):
    result = train(data, tmp_path / "run", CONFIG)

    encoder = load_checkpoint(result.last)
    with torch.inference_mode():
        images = encoder.encode_images(torch.from_numpy(data.validate.films[:])).joint
        texts = encoder.encode_texts([sentences[0] for sentences in data.validate.sentences]).joint
    expected = convirt_loss(images, texts, CONFIG.temperature, CONFIG.image_to_text_weight).item()
    assert float(rows_of(tmp_path / "run")[-1]["validation_loss"]) == pytest.approx(expected, rel=1e-4)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_step_and_rate(tmp_path, data):
    config = replace(CONFIG, learning_rate=1e30, gradient_clip=0.0, warmup_fraction=0.0)

    with pytest.raises(MedretError, match=r"loss of step \d+ is nan at learning rate \d.*Lower learning_rate"):
        train(data, tmp_path / "run", config)


def test_training_leaves_the_callers_random_numbers_alone(tmp_path, data):
    encoder = new_encoder(data)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    train_encoder(encoder, data, replace(CONFIG, epochs=1), tmp_path / "run")

    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"schedule": "plateau", "optimizer": "adam"}, {"max_steps": 4, "epochs": 0}])
def test_other_settings_train_as_well(tmp_path, data, changes):
    result = train(data, tmp_path / "run", replace(CONFIG, **changes))

    assert result.stopped == "finished"
    assert result.steps == changes.get("max_steps", 6)
    assert all(np.isfinite(float(row["validation_loss"])) for row in rows_of(tmp_path / "run"))


def test_the_plateau_rule_lowers_the_rate_of_a_run_that_learns_nothing(tmp_path, data):
    config = replace(CONFIG, schedule="plateau", plateau_patience=1, learning_rate=1e-12, warmup_fraction=0, epochs=4, batchnorm="running")

    train(data, tmp_path / "run", config)

    rates = [float(row["lr"]) for row in rows_of(tmp_path / "run")]
    assert rates[-1] < rates[0]


def test_live_batch_statistics_follow_the_films_and_running_ones_stay(tmp_path, data):
    for batchnorm, stays in (("live", False), ("auto", False), ("running", True)):
        encoder = new_encoder(data)
        before = {name: value.clone() for name, value in encoder.image.named_buffers() if name.endswith("running_mean")}
        train_encoder(encoder, data, replace(CONFIG, epochs=1, batchnorm=batchnorm), tmp_path / batchnorm)
        after = dict(encoder.image.named_buffers())
        assert all(torch.equal(before[name], after[name]) for name in before) is stays


def test_frozen_layers_of_a_pretrained_encoder_do_not_move(tmp_path, data):
    """A folder as `text` says that the text encoder started from weights."""
    encoder = new_encoder(data)
    before = {name: value.clone() for name, value in encoder.text.named_parameters()}
    config = replace(CONFIG, epochs=1, text=str(tmp_path), freeze_text_layers=1)

    train_encoder(encoder, data, config, tmp_path / "run")

    moved = {name for name, value in encoder.text.named_parameters() if not torch.equal(value, before[name])}
    assert not any("embeddings" in name or "layer.0." in name for name in moved)
    assert any("layer.1." in name for name in moved)


def test_freezing_layers_that_start_at_random_is_refused(tmp_path, data):
    with pytest.raises(MedretError, match=r"freeze_text_layers is 6.*starts at random"):
        train(data, tmp_path / "run", replace(CONFIG, freeze_text_layers=6))


def test_pretrained_parts_learn_at_their_own_rate_and_gains_and_biases_do_not_decay(tmp_path, data):
    encoder = new_encoder(data)
    config = replace(CONFIG, text=str(tmp_path), learning_rate=1e-3, pretrained_learning_rate=1e-5, weight_decay=0.1)
    prepare_encoder(encoder, config)
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in build_optimizer(encoder, Objective(config), config).param_groups
        for parameter in group["params"]
    }

    assert len(settings) == len(list(encoder.parameters()))
    for part, rate in ((encoder.text, 1e-5), (encoder.image, 1e-3), (encoder.image_head, 1e-3), (encoder.text_head, 1e-3)):
        for parameter in part.parameters():
            assert settings[id(parameter)] == (rate, 0.1 if parameter.ndim > 1 else 0.0)
    adam = build_optimizer(encoder, Objective(config), replace(config, optimizer="adam"))
    assert {group["weight_decay"] for group in adam.param_groups} == {0.1}


def test_a_disk_that_cannot_be_written_ends_in_one_line(tmp_path, data):
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(MedretError) as error:
        train(data, tmp_path / "file" / "run")
    assert "\n" not in str(error.value)


def test_a_run_resumed_through_the_corpus_keeps_its_vocabulary(tmp_path, corpus):
    run = tmp_path / "run"

    def interrupt(step: int, total: int, loss: float) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    broken = train_corpora([Source(corpus)], CONFIG, run, progress=interrupt)
    assert (broken.stopped, broken.best) == ("interrupted", None)
    vocabulary = (run / "last" / "tokenizer.json").read_bytes()
    resumed = train_corpora([Source(corpus)], CONFIG, run, resume=True)

    assert resumed.stopped == "finished"
    assert (run / "last" / "tokenizer.json").read_bytes() == vocabulary
    shutil.rmtree(run / "state")
    with pytest.raises(MedretError, match="before its first validation"):
        train_corpora([Source(corpus)], CONFIG, run)
