"""From attenuation to the stored picture of a phantom."""

import numpy as np
import numpy.typing as npt

from index.corpora.phantom_chest import Scene, cloud


def develop(scene: Scene) -> npt.NDArray[np.uint8]:
    """Turn attenuation into the stored picture: noise, exposure, 8 bit, histogram equalisation; (H, W) uint8."""
    rng = np.random.default_rng(scene.pose.seed)
    shape = scene.attenuation.shape
    picture = scene.attenuation + 0.03 * cloud(rng, shape, 7)
    picture += scene.pose.noise * rng.standard_normal(shape, dtype=np.float32)
    black, white = scene.pose.clip
    shown = np.clip((picture - black) * (1 / (white - black)), 0, 1) ** scene.pose.exposure
    return _with_marker(scene, equalise((shown * 255 + 0.5).astype(np.uint8)))


def equalise(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Spread the grey levels evenly, by the rule of OpenCV's equalizeHist, as the makers of MIMIC-CXR-JPG did.

    Args:
        pixels: (H, W) uint8.

    Returns:
        (H, W) uint8; a constant picture unchanged.
    """
    counts = np.bincount(pixels.ravel(), minlength=256)
    first = int(counts.nonzero()[0][0])
    rest = pixels.size - int(counts[first])
    if rest == 0:
        return pixels
    counts[first] = 0
    levels = np.rint(np.cumsum(counts) * (255.0 / rest)).astype(np.uint8)
    spread: npt.NDArray[np.uint8] = levels[pixels]
    return spread


def _with_marker(scene: Scene, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Burn in the letter L at the picture's upper right, the patient's left, where the film has one."""
    if scene.pose.marker:
        rows, columns = pixels.shape
        bottom, left = rows // 9, columns - columns // 10
        pixels[bottom - 14 : bottom, left : left + 3] = 250
        pixels[bottom - 3 : bottom, left : left + 10] = 250
    return pixels
