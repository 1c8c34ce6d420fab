"""Reports of phantoms in the words and the layout of MIMIC-CXR, and the labels that follow from those words."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.corpora.phantom_cases import PhantomFinding, PhantomPatient, PhantomStudy

# Every sentence names its finding, so that it stands alone; {size}, {adverb} ("mildly"), {side}, {place}
# ("right upper lung") come from the finding, {device} from its kind.
_SURE: dict[str, tuple[str, ...]] = {
    "Pleural Effusion": (
        "There is a {size} {side} pleural effusion.",
        "{size} {side} pleural effusion is present.",
        "{size} {side} pleural effusion with blunting of the costophrenic angle.",
        "{size} {side}-sided pleural effusion.",
        "{size} layering pleural effusion on the {side}.",
        "{size} amount of {side} pleural fluid.",
        "{size} amount of fluid in the {side} pleural space.",
        "Blunted {side} costophrenic angle due to a {size} effusion.",
    ),
    "Pleural Effusion, bilateral": (
        "{size} bilateral pleural effusions.",
        "There are {size} pleural effusions bilaterally.",
        "{size} bilateral pleural effusions with blunting of both costophrenic angles.",
        "{size} amount of fluid in both pleural spaces.",
    ),
    "Cardiomegaly": (
        "There is {size} cardiomegaly.",
        "{size} cardiomegaly.",
        "The heart is {adverb} enlarged.",
        "{adverb} enlarged cardiac silhouette.",
        "{size} enlargement of the cardiac silhouette.",
        "The cardiac silhouette is {adverb} enlarged.",
        "Heart size is {adverb} increased.",
    ),
    "Pneumothorax": (
        "There is a {size} {side} apical pneumothorax.",
        "{size} {side} pneumothorax.",
        "{size} {side} apical pneumothorax with a visible pleural line.",
        "A {side} apical pleural line is in keeping with a {size} pneumothorax.",
        "{side}-sided pneumothorax is {size} in size.",
        "{size} {side} pneumothorax: collapsed lung with a visible pleural edge.",
    ),
    "Lung Opacity": (
        "{size} opacity in the {place}.",
        "There is a {size} airspace opacity in the {place}.",
        "{size} {place} opacity.",
        "{size} lung opacity on the {side} in the {zone} zone.",
        "Patchy {size} opacity projects over the {place}.",
        "{size} infiltrate in the {place}.",
        "An airspace opacity is seen in the {place}, {size} in size.",
        "{size} patchy opacities are seen in the {place}.",
    ),
    "Edema": (
        "There is {size} pulmonary edema.",
        "{size} pulmonary edema.",
        "{size} bilateral perihilar haze compatible with pulmonary edema.",
        "{size} interstitial edema with vascular congestion.",
        "Central vascular congestion with {size} edema.",
        "Findings consistent with {size} pulmonary edema.",
    ),
    "Atelectasis": (
        "Linear atelectasis in the {place}.",
        "{size} band-like atelectasis in the {place}.",
        "{size} plate-like atelectasis in the {place}.",
        "There is {size} subsegmental atelectasis in the {place}.",
        "{place} atelectasis, {size} in extent.",
        "{size} volume loss in the {place}, compatible with atelectasis.",
    ),
    "Atelectasis, bilateral": (
        "{size} bibasilar atelectasis.",
        "Linear atelectasis at both lung bases.",
        "Bilateral {size} band-like basal atelectasis.",
    ),
    "pacemaker": (
        "{side}-sided pacemaker with two leads in expected position.",
        "A {side} pectoral pacemaker is in place.",
        "{side} chest wall dual-lead pacemaker.",
        "Support devices: {side} pacemaker.",
        "{side} pacemaker generator with intact leads.",
        "A {side} pacemaker is seen.",
    ),
    "line": (
        "{side} {device} central venous catheter ends in the superior vena cava.",
        "A {side} {device} central line is in place.",
        "{side} {device} line with its tip in the mid superior vena cava.",
        "Support devices: {side} {device} central venous catheter.",
        "A central venous catheter is seen, by the {side} {device} vein.",
    ),
}
_UNSURE: dict[str, tuple[str, ...]] = {
    "Pleural Effusion": (
        "Possible small {side} pleural effusion.",
        "Blunting of the {side} costophrenic angle may represent a small pleural effusion.",
        "A small {side} pleural effusion cannot be excluded.",
    ),
    "Pleural Effusion, bilateral": ("Possible small bilateral pleural effusions.", "Small bilateral pleural effusions cannot be excluded."),
    "Cardiomegaly": ("Possible mild cardiomegaly.", "The cardiac silhouette may be mildly enlarged."),
    "Pneumothorax": ("Possible small {side} apical pneumothorax.", "A small {side} apical pneumothorax cannot be excluded."),
    "Lung Opacity": ("Possible small opacity in the {place}.", "Questionable faint opacity in the {place}."),
    "Edema": ("Possible mild pulmonary edema.", "Perihilar haze may represent mild pulmonary edema."),
    "Atelectasis": ("Possible atelectasis in the {place}.", "A faint band in the {place} may represent atelectasis."),
    "Atelectasis, bilateral": ("Possible bibasilar atelectasis.", "Faint bands at both lung bases may represent atelectasis."),
}
_BARE: dict[str, tuple[str, ...]] = {  # an impression after findings that gave the side and the size
    "Pleural Effusion": ("Pleural effusion.", "There is a pleural effusion.", "Fluid in the pleural space."),
    "Cardiomegaly": ("Cardiomegaly.", "The heart is enlarged.", "Enlarged cardiac silhouette."),
    "Pneumothorax": ("Pneumothorax.", "There is a pneumothorax.", "Pneumothorax as described."),
    "Lung Opacity": ("Airspace opacity.", "There is an opacity in the lung.", "Lung opacity as described."),
    "Edema": ("Pulmonary edema.", "Interstitial edema.", "Findings consistent with pulmonary edema."),
    "Atelectasis": ("Atelectasis.", "There is atelectasis.", "Findings compatible with atelectasis."),
    "pacemaker": ("Pacemaker in place.", "Pacemaker is present.", "Support devices in place."),
    "line": ("Central venous catheter in place.", "Catheter is present.", "Support devices in place."),
}
_NEGATIVE: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (  # sentence, what it denies, what else must be absent
    ("No pleural effusion or pneumothorax.", ("Pleural Effusion", "Pneumothorax"), ()),
    ("No pneumothorax.", ("Pneumothorax",), ()),
    ("There is no pleural effusion.", ("Pleural Effusion",), ()),
    ("The heart is normal in size.", ("Cardiomegaly",), ()),
    ("No cardiomegaly.", ("Cardiomegaly",), ()),
    ("The cardiomediastinal silhouette is normal.", ("Enlarged Cardiomediastinum",), ("Cardiomegaly",)),
    ("Heart size and mediastinal contours are within normal limits.", ("Cardiomegaly", "Enlarged Cardiomediastinum"), ()),
    ("No pulmonary edema.", ("Edema",), ()),
    ("No focal consolidation.", ("Consolidation",), ("Lung Opacity",)),
    ("There is no evidence of pneumonia.", ("Pneumonia",), ("Lung Opacity",)),
    ("No focal lung opacity.", ("Lung Opacity",), ()),
    ("No atelectasis.", ("Atelectasis",), ()),
    ("No displaced rib fracture.", ("Fracture",), ()),
    ("No suspicious pulmonary nodule.", ("Lung Lesion",), ("Lung Opacity",)),
    ("No pleural thickening.", ("Pleural Other",), ("Pleural Effusion",)),
    (
        "Lungs are clear without focal consolidation, effusion or pneumothorax.",
        ("Consolidation", "Pleural Effusion", "Pneumothorax"),
        ("Lung Opacity", "Edema", "Atelectasis"),
    ),
)
_CLEAR = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
    "No acute finding in the chest.",
)
_REASONS = ("shortness of breath", "chest pain", "cough and fever", "a fall", "dyspnea", "preoperative evaluation", "weakness")
_PNEUMONIA = "The {place} opacity may represent pneumonia."
_WIDTH = 79  # characters of a line, its leading space included


@dataclass(frozen=True, slots=True)
class PhantomReport:
    """A report as stored, and what it says: 1.0, 0.0 or -1.0 for each finding that it mentions."""

    text: str
    labels: dict[str, float]


def write_report(patient: PhantomPatient, study: PhantomStudy) -> PhantomReport:
    """Put a study into words: a full report in four of five, else impression only, findings only, wet read or addendum."""
    rng = np.random.default_rng(study.seed)
    labels = {finding.name: 1.0 if finding.certain else -1.0 for finding in study.findings}
    findings = [_sentence(finding, rng) for finding in study.findings]
    shape = str(rng.choice(("full", "impression", "findings", "wet read", "addendum"), p=(0.80, 0.08, 0.05, 0.04, 0.03)))
    impression = [_concluded(finding, study, rng, shape) for finding in study.findings]
    for finding in study.findings:
        if finding.name == "Lung Opacity" and finding.certain and rng.random() < 0.2:
            impression.append(_filled(_PNEUMONIA, finding, rng))
            labels["Pneumonia"] = -1.0
    clear = not set(labels) - {"Support Devices"}
    if clear:
        labels["No Finding"] = 1.0
        impression.append(str(rng.choice(_CLEAR)))
    if shape == "impression":
        return PhantomReport(_laid_out(patient, study, rng, (), impression, shape), labels)
    findings += _normal(labels, clear, rng)
    if shape == "findings":
        findings += impression[len(study.findings) :]  # what only the impression would have said
    return PhantomReport(_laid_out(patient, study, rng, findings, impression, shape), labels)


def _normal(labels: dict[str, float], clear: bool, rng: np.random.Generator) -> list[str]:
    """Up to two sentences on what is not there, their labels entered as 0.0; one of them at least where all is well."""
    said: list[str] = []
    wanted = int(rng.integers(1 if clear else 0, 3))
    for row in rng.permutation(len(_NEGATIVE)):
        sentence, denied, absent = _NEGATIVE[row]
        if len(said) == wanted:
            break
        if any(name in labels for name in denied) or any(labels.get(name, 0.0) != 0.0 for name in absent):
            continue
        said.append(sentence)
        labels.update(dict.fromkeys(denied, 0.0))
    if clear and rng.random() < 0.5 and not any(sentence.startswith("Lungs are clear") for sentence in said):
        said.insert(0, "The lungs are clear.")
    return said


def _sentence(finding: PhantomFinding, rng: np.random.Generator) -> str:
    """One sentence with the side, the place and the size."""
    key = _key(finding)
    if not finding.kind and finding.side == "bilateral" and finding.name != "Edema":
        key += ", bilateral"
    return _filled(str(rng.choice((_SURE if finding.certain else _UNSURE)[key])), finding, rng)


def _concluded(finding: PhantomFinding, study: PhantomStudy, rng: np.random.Generator, shape: str) -> str:
    """One sentence of the impression: it may name the finding alone, or say that nothing has changed since the last study."""
    if finding.certain and shape not in ("impression", "findings") and rng.random() < 0.4:
        sentence = str(rng.choice(_BARE[_key(finding)]))
    else:
        sentence = _sentence(finding, rng)
    if finding.certain and finding.name in study.kept and rng.random() < 0.5:
        return sentence.removesuffix(".") + ", unchanged from ___."
    return sentence


def _key(finding: PhantomFinding) -> str:
    if not finding.kind:
        return finding.name
    return "pacemaker" if finding.kind == "pacemaker" else "line"


def _filled(template: str, finding: PhantomFinding, rng: np.random.Generator) -> str:
    side, zone = finding.side, finding.zone
    parts = {"upper": ("upper lung", "upper lobe"), "mid": ("mid lung", "mid lung"), "lower": ("lower lung", "lower lobe", "lung base")}
    sentence = template.format(
        size=finding.size,
        adverb={"mild": "mildly", "moderate": "moderately", "severe": "severely"}.get(finding.size, ""),
        side=side,
        zone=zone,
        place=f"{side} {rng.choice(parts[zone])}" if zone in parts else side,
        device=finding.kind,
    )
    return sentence[0].upper() + sentence[1:]


def _laid_out(
    patient: PhantomPatient, study: PhantomStudy, rng: np.random.Generator, findings: Sequence[str], impression: Sequence[str], shape: str
) -> str:
    """The whole text: titles in capitals, a leading space on every line, lines of 79 characters at most."""
    views = " and ".join(image.pose.view for image in study.images)
    who = "woman" if patient.anatomy.woman else "man"
    head = {
        "EXAMINATION": f"CHEST ({views.upper()})",
        "INDICATION": f"___ year old {who} with {rng.choice(_REASONS)}  // evaluate for acute process",
        "TECHNIQUE": f"Frontal {views} view{'s' if len(study.images) > 1 else ''} of the chest",
        "COMPARISON": "None." if study.number == 0 else "Chest radiograph ___.",
    }
    blocks = [" " * 33 + "FINAL REPORT", *(_wrapped(f"{title}:  {text}") for title, text in head.items())]
    if shape != "impression":
        blocks.append(" FINDINGS: \n \n" + _wrapped(" ".join(findings)))
    if shape != "findings":
        numbered = len(impression) > 1 and rng.random() < 0.5
        lines = (
            [_wrapped(f"{number}. {line}") for number, line in enumerate(impression, 1)] if numbered else [_wrapped(" ".join(impression))]
        )
        blocks.append(" IMPRESSION: \n \n" + "\n".join(lines))
    text = "\n \n".join(blocks) + "\n"
    rule = " " + "_" * 78 + "\n"
    if shape == "wet read":
        return (
            f" WET READ: ___ ___ ___ {int(rng.integers(1, 13))}:{int(rng.integers(60)):02d} PM\n"
            + _wrapped(" ".join(impression))
            + f"\n{rule}{text}"
        )
    if shape == "addendum":
        return " " * 33 + f"FINAL ADDENDUM\n ADDENDUM:  Discussed with Dr. ___ by telephone at ___.\n{rule}{text}"
    return text


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, initial_indent=" ", subsequent_indent=" ", break_long_words=False, break_on_hyphens=False))
