"""Who asks: disjoint samples by patient, what they must not find, and phrases where there are no texts."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from shard_folders import save_manifest, unit

from encoders.checkpoint import default_checkpoint, load_checkpoint
from index.askers import draw_samples
from index.corpora.phrases import finding_phrases
from index.corpora.record import Record
from index.manifest import ModalityShards
from index.shards import ShardRow, ShardWriter, open_shards


def no_encoder():
    raise AssertionError("no phrase asks, so the encoder is not loaded")


def write_shards(folder: Path, parts: dict[str, list[Record]], dimension=16, vectors=("joint",)):
    """Write records with random vectors; images two a shard fewer than rows, so that there are two shards."""
    random = np.random.default_rng(0)
    modalities = {}
    for modality, records in parts.items():
        writer = ShardWriter(folder, modality, dict.fromkeys(vectors, dimension), ())
        rows = [ShardRow(record, text=None if modality == "images" else "Clear.") for record in records]
        shards = []
        for number, part in enumerate((rows[:-2], rows[-2:])):
            drawn = {name: unit(random.standard_normal((len(part), dimension))) for name in vectors}
            shards.append(writer.write(number, part, drawn))
        modalities[modality] = ModalityShards(dimensions=writer.dimensions, shards=tuple(shards))
    save_manifest(folder, modalities)
    return open_shards(folder)


def images(patients: int, each: int = 3) -> list[Record]:
    """Records of patients; every fifth patient is not named, and its first two records share a study."""
    return [
        Record(
            id=f"i{patient}-{number}",
            image=None,
            patient_id=None if patient % 5 == 0 else f"p{patient}",
            study_id=f"s{patient}" if number < 2 else None,
        )
        for patient in range(patients)
        for number in range(each)
    ]


def owner(record: Record) -> str:
    return record.patient_id or record.study_id or record.id


def rows_asking(table, vectors) -> list[int]:
    stored = np.concatenate(table.blocks("joint"))
    return [int(np.flatnonzero((stored == vector).all(axis=1))[0]) for vector in vectors]


def test_no_owner_is_in_both_samples_and_none_asks_twice(tmp_path):
    records = images(120)
    shards = write_shards(tmp_path, {"images": records, "reports": [Record(id="r0", image=None), Record(id="r1", image=None)]})

    sample = draw_samples(shards, "images", "joint", no_encoder)["image"]

    askers = [owner(records[row]) for row in rows_asking(shards.table("images"), np.concatenate([sample.tune, sample.held]))]
    assert len(askers) == len(set(askers)) == len({owner(record) for record in records})
    assert (len(sample.tune), sample.drawn) == (len(askers) // 3, "images")
    assert len(sample.held) == len(askers) - len(sample.tune)


def test_a_query_must_not_find_itself_nor_what_is_of_its_patient_or_study(tmp_path):
    records = images(60)
    reports = [Record(id=f"r{number}", image=None, patient_id=f"p{number}") for number in range(40)]
    shards = write_shards(tmp_path, {"images": records, "reports": reports})

    samples = draw_samples(shards, "images", "joint", no_encoder)

    for row, own in zip(rows_asking(shards.table("images"), samples["image"].held), samples["image"].held_own, strict=True):
        alike = [place for place, record in enumerate(records) if owner(record) == owner(records[row])]
        same_study = [place for place, record in enumerate(records) if record.study_id and record.study_id == records[row].study_id]
        assert own.tolist() == (alike if records[row].patient_id else sorted({*same_study, row}))
    for row, own in zip(rows_asking(shards.table("reports"), samples["text"].tune), samples["text"].tune_own, strict=True):
        assert own.tolist() == [place for place, record in enumerate(records) if record.patient_id == f"p{row}"]


def test_the_same_seed_draws_the_same_and_no_more_than_wanted(tmp_path):
    shards = write_shards(tmp_path, {"images": images(90), "reports": images(3)})

    first, second, other = (draw_samples(shards, "images", "joint", no_encoder, tune=10, held=20, seed=seed)["image"] for seed in (0, 0, 1))

    assert (len(first.tune), len(first.held)) == (10, 20)
    np.testing.assert_array_equal(first.held, second.held)
    assert not np.array_equal(first.held, other.held)


def test_who_asks_for_texts_is_images_and_texts_of_the_same_kind(tmp_path):
    shards = write_shards(tmp_path, {"images": images(30), "sentences": images(30)}, vectors=("joint", "features"))

    asked = {
        (modality, vector): {asker: sample.drawn for asker, sample in draw_samples(shards, modality, vector, no_encoder).items()}
        for modality in ("images", "sentences")
        for vector in ("joint", "features")
    }

    assert asked == {
        ("images", "joint"): {"image": "images", "text": "sentences"},
        ("sentences", "joint"): {"image": "images", "text": "sentences"},
        ("images", "features"): {"image": "images"},
        ("sentences", "features"): {"text": "sentences"},
    }


def test_images_without_texts_are_asked_with_phrases_of_the_encoder(tmp_path):
    shards = write_shards(tmp_path, {"images": images(30)}, dimension=256)

    sample = draw_samples(shards, "images", "joint", partial(load_checkpoint, default_checkpoint()), tune=20, held=40)["text"]

    assert (sample.drawn, sample.tune.shape, sample.held.shape) == ("prompts", (20, 256), (40, 256))
    np.testing.assert_allclose(np.linalg.norm(sample.held, axis=1), 1, atol=1e-5)
    assert not (sample.tune[:, None] == sample.held[None]).all(axis=2).any()


def test_a_direction_of_a_single_record_is_left_out(tmp_path):
    reports = [Record(id=f"r{number}", image=None, patient_id="p1") for number in range(4)]

    samples = draw_samples(write_shards(tmp_path, {"images": images(30), "reports": reports}), "images", "joint", no_encoder)

    assert set(samples) == {"image"}


@pytest.mark.parametrize(("findings", "some"), [((), "small left pleural effusion"), (("No Finding", "Air_Leak"), "new right air leak")])
def test_phrases_name_finding_degree_and_side(findings, some):
    phrases = finding_phrases(findings)

    assert some in phrases
    assert len(phrases) == len(set(phrases))
    assert not any("no finding" in phrase for phrase in phrases)
