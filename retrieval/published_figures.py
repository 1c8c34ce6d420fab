"""What others published for a benchmark: figures, where they stand, and what keeps them from being compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CONVIRT = "ConVIRT, Zhang et al., MLHC 2022, arXiv:2010.00747, Table 2"
_EGMA = "EGMA, NeurIPS 2024, Table 3"
_GLORIA = "GLoRIA, Huang et al., ICCV 2021, Table 1"
_BENCHX = "BenchX, NeurIPS 2024 Datasets and Benchmarks, MIMIC 5x200"
_CXR_CLIP = "CXR-CLIP, You et al., MICCAI 2023"
_BIOMEDCLIP = "BiomedCLIP fine-tuned on MIMIC-CXR, README of patch-ib-cxr"
_TABLE_2 = "k = 5, 10, 50 as in the table (the text says 5, 10, 100); 7 of the 80 query images have a candidate of their own patient"
_UNCHECKED = "quoted, not checked against the paper"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFigures:
    """A published table.

    Attributes:
        source: Where it stands.
        caveat: What differs from what is measured here, or is in doubt.
        metrics: M names, as the results name them.
        percent: System to M figures in percent; None where there is none.
    """

    source: str
    caveat: str
    metrics: tuple[str, ...]
    percent: Mapping[str, tuple[float | None, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON holds it: figures as fractions, as the results have them."""
        systems = {
            system: {name: None if value is None else round(value / 100, 6) for name, value in zip(self.metrics, row, strict=True)}
            for system, row in self.percent.items()
        }
        return {"source": self.source, "caveat": self.caveat, "systems": systems}


PUBLISHED_FIGURES: Mapping[tuple[str, str], tuple[PublishedFigures, ...]] = {
    ("chexpert-8x200", "image-image"): (
        PublishedFigures(
            source=_CONVIRT,
            caveat=f"{_TABLE_2}; encoder outputs before projection are compared; SimCLR and MoCo v2 stand apart from that table",
            metrics=("P@5", "P@10", "P@50"),
            percent={
                "ImageNet": (14.8, 14.4, 15.0),
                "Caption-Transformer": (29.8, 28.0, 23.0),
                "Caption-LSTM": (34.8, 32.9, 28.1),
                "Contrastive-Binary-Loss": (38.8, 36.6, 29.7),
                "ConVIRT": (45.0, 42.9, 35.7),
                "ConVIRT, then CheXpert's labels": (56.8, 56.3, 48.9),
                "SimCLR": (None, 17.6, None),
                "MoCo v2": (None, 20.6, None),
            },
        ),
    ),
    ("chexpert-8x200", "text-image"): (
        PublishedFigures(
            source=_CONVIRT,
            caveat=_TABLE_2.partition(";")[0],
            metrics=("P@5", "P@10", "P@50"),
            percent={"Contrastive-Binary-Loss": (15.5, 14.5, 13.7), "ConVIRT": (60.0, 57.5, 48.8)},
        ),
        PublishedFigures(
            source=_EGMA,
            caveat=f"{_UNCHECKED}; its row for ConVIRT is left out: a P@1 of 60.25 is no mean over 40 queries, and its P@5 and P@10 "
            "are those of ConVIRT's own table; 40 queries make P@1 a multiple of 2.5 %",
            metrics=("P@1", "P@5", "P@10"),
            percent={
                "CLIP": (5.0, 12.5, 12.5),
                "MedCLIP": (12.5, 12.5, 15.0),
                "MGCA": (45.0, 47.5, 44.0),
                "GLoRIA": (52.5, 49.0, 50.25),
                "EGMA": (80.0, 74.5, 69.5),
            },
        ),
    ),
    ("chexpert-8x200", "image-text"): (
        PublishedFigures(
            source=_EGMA,
            caveat=f"{_UNCHECKED}; 5 of the 40 texts answer an image, so P@10 cannot exceed 0.5",
            metrics=("P@1", "P@5", "P@10"),
            percent={
                "CLIP": (12.75, 12.48, 10.03),
                "MedCLIP": (14.5, 15.98, 15.86),
                "MGCA": (35.0, 27.8, 23.33),
                "GLoRIA": (38.75, 31.62, 24.51),
                "EGMA": (42.65, 37.5, 28.84),
            },
        ),
    ),
    ("chexpert-5x200", "image-report"): (
        PublishedFigures(
            source=_GLORIA,
            caveat="its list was drawn without a seed and never released: every other list measures something else; the own report is "
            f"among the candidates and counts; DSVE, VSE++ and ConVIRT as GLoRIA measured them; {_UNCHECKED}",
            metrics=("P@5", "P@10", "P@100"),
            percent={
                "DSVE": (None, None, 24.74),
                "VSE++": (None, None, 26.89),
                "ConVIRT": (66.98, 63.06, 49.03),
                "GLoRIA, global vectors only": (67.02, 64.68, 49.55),
                "GLoRIA": (69.24, 67.22, 53.78),
            },
        ),
    ),
    ("chexpert-5x200", "own-report"): (
        PublishedFigures(
            source=_CXR_CLIP,
            caveat=f"{_UNCHECKED}; identical texts once; GLoRIA and MedCLIP as CXR-CLIP measured them, on a list of its own",
            metrics=("R@1", "R@5", "R@10"),
            percent={
                "GLoRIA": (17.8, 38.8, 49.9),
                "MedCLIP": (2.6, 3.0, 3.6),
                "CXR-CLIP ResNet-50, MIMIC-CXR": (9.4, 23.0, 32.6),
                "CXR-CLIP Swin-T, MIMIC-CXR": (8.4, 21.5, 30.2),
            },
        ),
    ),
    ("mimic-5x200", "image-report"): (
        PublishedFigures(
            source=_BENCHX,
            caveat="measured within random batches and averaged, not over all 1,000 reports (PTUnifier's P@10 of 23.4 beside a P@1 of "
            f"78.7 comes of that); the own report counts; the list is not released; {_UNCHECKED}",
            metrics=("P@1", "P@5", "P@10"),
            percent={
                "ConVIRT": (61.9, 54.9, 52.5),
                "GLoRIA": (54.6, 49.7, 47.2),
                "MedCLIP ResNet-50": (16.1, 16.6, 18.8),
                "MedCLIP ViT": (42.0, 41.0, 40.6),
                "MGCA ResNet-50": (57.9, 53.0, 50.2),
                "MGCA ViT": (63.3, 56.4, 52.6),
                "PTUnifier": (78.7, 38.4, 23.4),
                "REFERS": (54.4, 52.5, 50.5),
            },
        ),
    ),
    ("report-recall", "image-report"): (
        PublishedFigures(
            source=f"{_CXR_CLIP}, on MIMIC-CXR's test split",
            caveat=f"{_UNCHECKED}; one image a study, the longer of findings and impression, identical texts once",
            metrics=("R@1", "R@5", "R@10"),
            percent={
                "GLoRIA": (7.2, 20.6, 30.3),
                "MedCLIP": (1.1, 1.4, 5.5),
                "CXR-CLIP ResNet-50, MIMIC-CXR": (21.4, 46.0, 59.2),
                "CXR-CLIP Swin-T, MIMIC-CXR": (21.6, 48.9, 60.2),
            },
        ),
        PublishedFigures(
            source=f"{_CXR_CLIP}, on OpenI",
            caveat=f"{_UNCHECKED}; 3,955 frontal pairs, none of them trained on",
            metrics=("R@1", "R@5", "R@10"),
            percent={
                "GLoRIA": (1.5, 4.4, 6.5),
                "MedCLIP": (0.1, 0.4, 0.7),
                "CXR-CLIP ResNet-50, MIMIC-CXR": (3.8, 8.2, 12.3),
                "CXR-CLIP Swin-T, MIMIC-CXR": (3.6, 8.3, 11.5),
            },
        ),
        PublishedFigures(
            source=_BIOMEDCLIP,
            caveat=f"{_UNCHECKED}; 3,041 frontal studies of MIMIC-CXR's test split",
            metrics=("R@1", "R@5", "R@10"),
            percent={"BiomedCLIP, fine-tuned": (20.7, 48.4, 62.8)},
        ),
    ),
    ("report-recall", "report-image"): (
        PublishedFigures(
            source=_BIOMEDCLIP,
            caveat=f"{_UNCHECKED}; 3,041 frontal studies of MIMIC-CXR's test split",
            metrics=("R@1", "R@5", "R@10"),
            percent={"BiomedCLIP, fine-tuned": (19.4, 49.0, 60.9)},
        ),
    ),
    ("zero-shot", "contrast"): (
        PublishedFigures(
            source="CheXzero, Tiu et al., Nature Biomedical Engineering 2022, doi 10.1038/s41551-022-00936-9",
            caveat=f"{_UNCHECKED}; an ensemble of ten checkpoints, mean over five findings of CheXpert's 500-patient test set as eight "
            "radiologists labelled it, not as a labeller read reports",
            metrics=("AUC",),
            percent={"CheXzero": (88.9,)},
        ),
    ),
    ("linear-probe", "image-label"): (
        PublishedFigures(
            source="CheXpert's columns of Table 1 of MaCo, Huang et al., Nature Communications 2024, doi 10.1038/s41467-024-51749-0",
            caveat="mean over five findings of CheXpert's validation set as radiologists labelled it, 1 % of its training images being "
            "2,234; rows taken over from each system's own paper, encoders frozen in some and tuned in others",
            metrics=("AUC 1%", "AUC 10%", "AUC 100%"),
            percent={
                "ConVIRT": (85.9, 86.8, 87.3),
                "GLoRIA": (86.6, 87.8, 88.1),
                "REFERS": (87.2, 88.1, 88.2),
                "MRM": (88.5, 88.5, 88.7),
                "MaCo": (88.7, 88.7, 88.9),
            },
        ),
    ),
}


def published_for(benchmark: str, direction: str) -> list[dict[str, Any]]:
    """Return what was published for a direction of a benchmark, as JSON holds it; an empty list where nothing was."""
    return [table.to_dict() for table in PUBLISHED_FIGURES.get((benchmark, direction), ())]
