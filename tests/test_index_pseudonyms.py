import hashlib
from datetime import date
from pathlib import Path

import pytest

from encoders.errors import MedretError
from index.corpora.record import LabelState, Record
from index.pseudonyms import Pseudonymiser, read_key

KEY = b"0123456789abcdef0123456789abcdef"
RECORD = Record(
    id="p10/s50/x1",
    image=Path("/data/DOE_JANE/x1.dcm"),
    patient_id="10",
    study_id="50",
    view="PA",
    split="train",
    labels={"Edema": LabelState.POSITIVE},
    sections={"findings": "Edema."},
    study_date=date(2020, 1, 2),
    age=93.0,
    sex="F",
    tags=("edema",),
)


def hmac_by_hand(key, message):
    """RFC 2104 as it is written there, for a key shorter than the block of 64 bytes."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).hexdigest()


@pytest.mark.parametrize(("domain", "field"), [("patient", "patient_id"), ("study", "study_id"), ("file", "id")])
def test_ids_become_half_of_an_hmac_sha256(domain, field):
    expected = hmac_by_hand(KEY, domain.encode() + b"\0" + getattr(RECORD, field).encode())[:32]

    assert getattr(Pseudonymiser(KEY).record(RECORD), field) == expected


def test_what_retrieval_needs_is_kept_and_what_names_a_person_is_not():
    record = Pseudonymiser(KEY).record(RECORD)

    assert (record.view, record.split, record.sex, record.labels, record.sections) == ("PA", "train", "F", RECORD.labels, RECORD.sections)
    assert record.study_date is None
    assert record.age == 90


@pytest.mark.parametrize(("age", "kept"), [(None, None), (0.5, 0.5), (89.0, 89.0), (89.5, 90.0), (90.0, 90.0), (101.0, 90.0)])
def test_ages_above_89_are_one_group(age, kept):
    assert Pseudonymiser(KEY).record(Record(id="a", image=None, age=age)).age == kept


def test_a_missing_patient_or_study_stays_missing():
    record = Pseudonymiser(KEY).record(Record(id="a", image=None))

    assert (record.patient_id, record.study_id) == (None, None)


def test_the_same_number_as_patient_and_study_gives_two_pseudonyms():
    record = Pseudonymiser(KEY).record(Record(id="7", image=None, patient_id="7", study_id="7"))

    assert len({record.id, record.patient_id, record.study_id}) == 3


def test_another_key_gives_other_pseudonyms():
    assert Pseudonymiser(KEY).record(RECORD).id != Pseudonymiser(KEY[::-1]).record(RECORD).id
    assert Pseudonymiser(KEY).check != Pseudonymiser(KEY[::-1]).check


def write_key(path, content, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_key_is_read_without_its_line_end(tmp_path):
    assert read_key(write_key(tmp_path / "key", KEY + b"\r\n")) == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    with pytest.raises(MedretError, match=f"mode {mode:o}, expected 600.*chmod 600"):
        read_key(write_key(tmp_path / "key", KEY, mode))


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b" " * 40 + b"fifteen letters"])
def test_a_short_key_is_refused(tmp_path, content):
    with pytest.raises(MedretError, match=f"the key has {len(content.strip())} bytes, expected at least 16"):
        read_key(write_key(tmp_path / "key", content))


def test_a_missing_key_tells_how_to_make_one(tmp_path):
    with pytest.raises(MedretError, match=r"no such key file. Make one: openssl rand -hex 32"):
        read_key(tmp_path / "key")
