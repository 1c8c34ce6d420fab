"""What a label set is where a reader was uncertain: policies, by name."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from index.corpora.record import LabelState

_AS_POSITIVE = ("Atelectasis", "Edema", "Pleural Effusion")  # of "mixed"

Policy = Callable[[npt.NDArray[np.int8], Sequence[str]], npt.NDArray[np.bool_]]


def apply_policy(states: npt.NDArray[np.int8], findings: Sequence[str], policy: str) -> npt.NDArray[np.float32]:
    """Turn states into label vectors: 1 for a positive finding, 0 for one denied, not mentioned or not looked for.

    An uncertain finding becomes what the policy says:

    - "zeros": 0.
    - "ones": 1.
    - "mixed": 1 for atelectasis, edema and pleural effusion, 0 for the others.
    - "ignore": the record's label set is unknown, and an unknown set can be compared with no other: the whole row
      becomes 0, as if the record was not labelled. Its image and its text still have each other.

    Args:
        states: (N, K) int8, values of LabelState or NULL_LABEL.
        findings: The K names of the columns.
        policy: One of POLICIES.

    Returns:
        (N, K) float32, 0 or 1.

    Raises:
        ValueError: If states do not have a column for each finding, or the policy is unknown.

    Source: U-Zeros, U-Ones and U-Ignore of CheXpert, Irvin et al., AAAI 2019, arXiv:1901.07031; U-Ignore leaves one
    finding of a record out of a classifier's loss, and is here what it means for a set. "mixed" is the choice of GLoRIA
    and MGCA among U-Zeros and U-Ones for the five findings of CheXpert's competition (cardiomegaly and consolidation
    are 0), after that paper's comparison; for the other nine findings we take 0.
    """
    if states.ndim != 2 or states.shape[1] != len(findings):
        raise ValueError(f"states are {states.shape}, expected (N, {len(findings)})")
    if policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}, expected one of {', '.join(POLICIES)}")
    return POLICIES[policy](states, findings).astype(np.float32)


def _zeros(states: npt.NDArray[np.int8], findings: Sequence[str]) -> npt.NDArray[np.bool_]:
    return np.isin(states, LabelState.POSITIVE)


def _ones(states: npt.NDArray[np.int8], findings: Sequence[str]) -> npt.NDArray[np.bool_]:
    return np.isin(states, (LabelState.POSITIVE, LabelState.UNCERTAIN))


def _ignore(states: npt.NDArray[np.int8], findings: Sequence[str]) -> npt.NDArray[np.bool_]:
    unknown = np.isin(states, LabelState.UNCERTAIN).any(axis=1, keepdims=True)  # (N, 1)
    return _zeros(states, findings) & ~unknown


def _mixed(states: npt.NDArray[np.int8], findings: Sequence[str]) -> npt.NDArray[np.bool_]:
    return np.where(np.isin(findings, _AS_POSITIVE), _ones(states, findings), _zeros(states, findings))


POLICIES: dict[str, Policy] = {"zeros": _zeros, "ones": _ones, "ignore": _ignore, "mixed": _mixed}
