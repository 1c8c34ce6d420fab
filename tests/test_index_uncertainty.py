import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from index.corpora.record import FINDINGS, NULL_LABEL, LabelState
from index.corpora.uncertainty import POLICIES, apply_policy

STATES = [*(int(state) for state in LabelState), NULL_LABEL]
some_states = arrays(np.int8, st.tuples(st.integers(0, 6), st.just(len(FINDINGS))), elements=st.sampled_from(STATES))


def label_by_hand(row: list[int], finding: str, policy: str) -> float:
    """One cell of the result, from the words of the policies."""
    state = row[FINDINGS.index(finding)]
    if policy == "ignore" and LabelState.UNCERTAIN in row:
        return 0.0
    if state == LabelState.UNCERTAIN:
        if policy == "mixed":
            return float(finding in ("Atelectasis", "Edema", "Pleural Effusion"))
        return {"zeros": 0.0, "ones": 1.0}[policy]
    return 1.0 if state == LabelState.POSITIVE else 0.0


@given(states=some_states, policy=st.sampled_from(["zeros", "ones", "ignore", "mixed"]))
def test_every_label_is_what_the_policy_says(states, policy):
    expected = [[label_by_hand(row, finding, policy) for finding in FINDINGS] for row in states.tolist()]

    labels = apply_policy(states, FINDINGS, policy)

    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.reshape(expected, states.shape))


def test_mixed_goes_by_the_names_of_the_columns_not_by_their_places():
    states = np.full((1, 3), LabelState.UNCERTAIN, dtype=np.int8)

    assert apply_policy(states, ("Edema", "Pneumonia", "Atelectasis"), "mixed").tolist() == [[1, 0, 1]]
    assert apply_policy(states, ("Pneumonia", "Edema", "Fracture"), "mixed").tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("policy", list(POLICIES))
def test_without_an_uncertain_finding_all_policies_agree(policy):
    states = np.array([[1, 0, -2], [NULL_LABEL, NULL_LABEL, 1]], dtype=np.int8)

    assert apply_policy(states, FINDINGS[:3], policy).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'twos'.*zeros, ones, ignore, mixed"):
        apply_policy(np.zeros((1, 14), dtype=np.int8), FINDINGS, "twos")


def test_states_need_a_column_for_each_finding():
    with pytest.raises(ValueError, match=r"\(1, 13\).*\(N, 14\)"):
        apply_policy(np.zeros((1, 13), dtype=np.int8), FINDINGS, "zeros")
