"""How the text half of an encoder runs where torch is not loaded: tried against torch when an index is built, and when it is verified."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from encoders.errors import MedretError

if TYPE_CHECKING:
    from encoders.dual import DualEncoder

AGREEMENT = 1e-4  # largest difference to torch of any value of a unit vector
_TEXTS = (
    "Cardiomegaly.",
    "No acute cardiopulmonary process.",
    "There is a small left pleural effusion with adjacent atelectasis; the right lung is clear. No pneumothorax is seen.",
    "PA/lateral 2011-05-31: élevé 3.5 cm (±0.2) 左 [MASK] ##x",  # of another language, and of none
    "pneumonia " * 600,  # longer than any encoder reads
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExport:
    """What was found when the text encoder was tried without torch.

    Attributes:
        way: "numpy" where the forward pass over the checkpoint's own mapped weights agrees with torch, else "torch".
        difference: The largest difference to torch of any value of a vector; None where there was nothing to compare.
        reason: Why torch has to be loaded, one clause; empty where it need not.
    """

    way: str
    difference: float | None = None
    reason: str = ""


def try_export(encoder: "DualEncoder", folder: Path) -> TextExport:
    """Encode a few texts with torch and without, and compare joint vectors and features.

    Args:
        encoder: As loaded from `folder`, on any device; its fingerprint was compared by that.
        folder: The checkpoint.
    """
    from encoders.plain_text import PlainText, UncoveredError

    try:
        found = PlainText(folder).encode(_TEXTS)
    except UncoveredError as error:
        return TextExport(way="torch", reason=str(error))
    expected = _by_torch(encoder)
    difference = max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True))
    if not difference <= AGREEMENT:  # NaN too
        return TextExport(way="torch", difference=difference, reason=f"the vectors differ from torch's by {difference:.1g}")
    return TextExport(way="numpy", difference=difference)


def check_export(encoder: "DualEncoder", folder: Path, stated: TextExport | None) -> None:
    """Try an export again.

    Raises:
        MedretError: If it was found to agree with torch, and does not here.
    """
    if stated is None or stated.way != "numpy":
        return
    found = try_export(encoder, folder)
    if found.way != stated.way:
        raise MedretError(
            f"{folder}: its text encoder without torch does not agree with torch on this machine ({found.reason}). "
            "Load torch for texts: build the index again on this machine"
        )


def _by_torch(encoder: "DualEncoder") -> tuple[np.ndarray, np.ndarray]:
    """Encode in evaluation mode, each text alone."""
    import torch

    training = encoder.training
    encoder.eval()
    with torch.inference_mode():
        parts = [encoder.encode_texts([text]) for text in _TEXTS]
        joint, features = (torch.cat(found).float().cpu().numpy() for found in zip(*parts, strict=True))
    encoder.train(training)
    return joint, features
