"""Short phrases as people type them: a finding with how much of it there is and where, for corpora that have no texts."""

from collections.abc import Sequence

from index.corpora.record import FINDINGS

_DEGREES = ("", "minimal", "small", "moderate", "large", "new", "chronic", "unchanged", "improving", "worsening")
_PLACES = (
    *("", "left", "right", "bilateral", "left basal", "right basal"),
    *("left upper lobe", "right upper lobe", "left lower lobe", "right lower lobe"),
)
_WORDING = {  # as reports say it, where the label's name is not what anyone would type
    "Edema": "pulmonary edema",
    "Enlarged Cardiomediastinum": "widened mediastinum",
    "Fracture": "rib fracture",
    "Lung Lesion": "lung nodule",
    "Pleural Other": "pleural thickening",
}
_WITHOUT_SIDE = {"Cardiomegaly", "Enlarged Cardiomediastinum", "Edema", "Support Devices"}
_ABSENT = "No Finding"


def finding_phrases(findings: Sequence[str] = ()) -> list[str]:
    """Return every phrase of finding, degree and place, such as "small left pleural effusion", without repetition.

    Args:
        findings: As the corpus names them; the 13 of CheXpert where there are none. "No Finding" is none of them.
    """
    named = [finding for finding in findings if finding != _ABSENT] or [finding for finding in FINDINGS if finding != _ABSENT]
    phrases = [
        " ".join(word for word in (degree, place, _noun(finding)) if word)
        for finding in named
        for degree in _DEGREES
        for place in (("",) if finding in _WITHOUT_SIDE else _PLACES)
    ]
    return list(dict.fromkeys(phrases))


def _noun(finding: str) -> str:
    return _WORDING.get(finding, " ".join(finding.replace("_", " ").split()).lower())
