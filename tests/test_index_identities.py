import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.errors import MedretError
from index import identities
from index.corpora.record import Record
from index.identities import Identities

NAMES = st.sampled_from(["a", "bb", "cc", "ddd"])
RECORDS = st.lists(st.builds(Record, id=NAMES, image=st.none(), patient_id=st.none() | NAMES, study_id=st.none() | NAMES), max_size=5)


def faults(records):
    """Slow and plain: every pair is looked at."""
    pairs = [(one, other) for place, one in enumerate(records) for other in records[:place]]
    twice = any(one.id == other.id for one, other in pairs)
    shared = any(
        None not in (one.study_id, one.patient_id, other.patient_id)
        and one.study_id == other.study_id
        and one.patient_id != other.patient_id
        for one, other in pairs
    )
    both = any(one.study_id is None and one.id == other.study_id for one in records for other in records)
    return twice or shared or both


@pytest.mark.parametrize("hashed", [identities._hash, len, lambda word: 1], ids=["as it is", "colliding", "all alike"])
@given(records=RECORDS)
def test_ids_are_refused_where_a_plain_comparison_of_all_pairs_refuses_them(hashed, records):
    kept = identities._hash
    identities._hash = hashed
    try:
        checked = Identities()
        for record in records:
            checked.add(record)
        named = {record.patient_id for record in records} - {None}
        if hashed is len and len({len(name) for name in named}) < len(named):  # such a pair of patients in one study is not told apart
            return
        if faults(records):
            with pytest.raises(MedretError, match=r"two records have|belongs to two patients|is a study and also"):
                checked.check("corpus", lambda: records)
        else:
            checked.check("corpus", lambda: records)
        if hashed is kept:
            assert checked.units() == len({record.study_id or record.id for record in records})
    finally:
        identities._hash = kept
