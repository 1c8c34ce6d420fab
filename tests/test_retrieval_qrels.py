import numpy as np
import pytest

from index.corpora.record import LabelState
from retrieval.qrels import number_texts, read_relevance

POSITIVE, NEGATIVE, UNCERTAIN, SILENT, NULL = (*(int(state) for state in LabelState), -128)
LABELS = np.array([[POSITIVE], [NEGATIVE], [UNCERTAIN], [SILENT], [NULL]], dtype=np.int8)


@pytest.mark.parametrize(
    ("policy", "positive", "judged"),
    [
        ("negative", [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]),
        ("positive", [1, 0, 1, 0, 0], [1, 1, 1, 1, 0]),
        ("ignore", [1, 0, 0, 0, 0], [1, 1, 0, 1, 0]),
    ],
)
def test_each_state_counts_as_its_policy_says(policy, positive, judged):
    relevance = read_relevance(LABELS, ["Edema"], policy)

    assert relevance.positive.tolist() == positive
    assert relevance.judged.tolist() == judged


def test_every_finding_has_its_own_bit():
    labels = np.array([[POSITIVE, NEGATIVE, POSITIVE]], dtype=np.int8)

    relevance = read_relevance(labels, ["A", "B", "C"])

    assert relevance.bits.tolist() == [1, 2, 4]
    assert relevance.positive.tolist() == [0b101]


def test_an_unknown_policy_is_refused_by_name():
    with pytest.raises(ValueError, match="ignore"):
        read_relevance(LABELS, ["Edema"], "sometimes")


def test_labels_need_a_column_for_each_finding():
    with pytest.raises(ValueError, match="2 findings"):
        read_relevance(LABELS, ["Edema", "Fracture"])


def test_identical_texts_share_a_number_whatever_their_white_space():
    numbers = number_texts(["No effusion.", " No\n effusion. ", "Edema.", "", None, "   ", "Edema."])

    assert numbers.tolist() == [0, 0, 1, -1, -1, -1, 1]
