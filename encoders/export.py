"""How the halves of an encoder run where torch is not loaded: tried against torch when an index is built, and when it is verified."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError, UncoveredError

if TYPE_CHECKING:
    from encoders.dual import DualEncoder, Encoded

AGREEMENT = 1e-4  # largest difference to torch of any value of a unit vector
_TEXTS = (
    "Cardiomegaly.",
    "No acute cardiopulmonary process.",
    "There is a small left pleural effusion with adjacent atelectasis; the right lung is clear. No pneumothorax is seen.",
    "PA/lateral 2011-05-31: élevé 3.5 cm (±0.2) 左 [MASK] ##x",  # of another language, and of none
    "pneumonia " * 600,  # longer than any encoder reads
)

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]  # joint vectors and features


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was found when half of an encoder was tried without torch.

    Attributes:
        way: "numpy" where the forward pass over the checkpoint's own mapped weights agrees with torch, else "torch".
        difference: The largest difference to torch of any value of a vector; None where there was nothing to compare.
        reason: Why torch has to be loaded, one clause; empty where it need not.
        network: Of the image half, what was recorded (RecordedNetwork.to_text); the text half needs no more than the checkpoint.
    """

    way: str
    difference: float | None = None
    reason: str = ""
    network: str = ""


def try_texts(encoder: "DualEncoder", folder: Path) -> Export:
    """Encode a few texts with torch and without, and compare joint vectors and features.

    Args:
        encoder: As loaded from `folder`, on the CPU; its fingerprint was compared by that.
        folder: The checkpoint.
    """
    from encoders.plain_text import PlainText

    try:
        found = PlainText(folder).encode(_TEXTS)
    except UncoveredError as error:
        return Export(way="torch", reason=str(error))
    return _compared(found, lambda text: encoder.encode_texts([text]), _TEXTS)


def try_images(encoder: "DualEncoder", folder: Path, network: str = "") -> Export:
    """Encode a few invented films with torch and without, and compare joint vectors and features.

    Args:
        encoder: As loaded from `folder`, on the CPU; its fingerprint was compared by that.
        folder: The checkpoint.
        network: As it was recorded; recorded anew where empty.
    """
    import torch

    from encoders.plain_image import PlainImage, RecordedNetwork
    from encoders.recording import record_network

    films = _films(encoder.config.preprocessing.size)
    try:
        network = network or record_network(encoder).to_text()
        found = PlainImage(folder, RecordedNetwork.from_text(network)).encode(films)
    except UncoveredError as error:
        return Export(way="torch", reason=str(error))
    return _compared(found, lambda film: encoder.encode_images(torch.from_numpy(film[None])), films, network)


def check_exports(encoder: "DualEncoder", folder: Path, texts: Export | None, images: Export | None) -> None:
    """Try again what was found to agree with torch.

    Raises:
        MedretError: If it does not here.
    """
    if texts is not None and texts.way == "numpy":
        _check("text", folder, try_texts(encoder, folder))
    if images is not None and images.way == "numpy":
        _check("image", folder, try_images(encoder, folder, images.network))


def _check(half: str, folder: Path, found: Export) -> None:
    if found.way != "numpy":
        raise MedretError(
            f"{folder}: its {half} encoder without torch does not agree with torch on this machine ({found.reason}). "
            f"Try {half}s again here, or have torch loaded for them: medret compact --rebuild"
        )


def _compared(found: Pair, encode: Callable[[Any], "Encoded"], asked: Iterable[Any], network: str = "") -> Export:
    """Compare with what torch makes of each text or film alone."""
    import torch

    with torch.inference_mode():
        parts = [encode(item) for item in asked]
        expected = [torch.cat(made).numpy() for made in zip(*parts, strict=True)]
    difference = max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True))
    if not difference <= AGREEMENT:  # NaN too
        return Export(way="torch", difference=difference, reason=f"the vectors differ from torch's by {difference:.1g}")
    return Export(way="numpy", difference=difference, network=network)


def _films(side: int) -> NDArray[np.uint8]:
    """Five films, (5, side, side): black, white, a ramp, two lungs and grain."""
    down, right = np.mgrid[:side, :side] / side
    lungs = 200 - 160 * ((np.abs(right - 0.5) - 0.2) ** 2 / 0.02 + (down - 0.45) ** 2 / 0.1 < 1)
    grain = np.random.default_rng(0).integers(0, 256, (side, side))
    return np.stack([0 * down, 0 * down + 255, 255 * down, lungs, grain]).astype(np.uint8)
