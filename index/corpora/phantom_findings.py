"""What is wrong with a phantom, drawn over its normal chest, and the box around it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from index.corpora.phantom_anatomy import Anatomy, Pose
from index.corpora.phantom_cases import PhantomFinding
from index.corpora.phantom_chest import AIR, VESSEL, Field, Scene, bump, chest_wall, cloud, look_up, normal_chest, ramp
from index.corpora.phantom_film import develop

_ZONE_HEIGHTS = {"upper": -0.42, "mid": -0.06, "lower": 0.28}
_VISIBLE = 0.3  # a box holds what is at least this share of the finding's strongest change


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Where one finding was drawn, in pixels of the stored image: pixels[y_min:y_max, x_min:x_max].

    `side` is the patient's: "left" lies in the right half of the picture.
    """

    finding: str
    side: str
    zone: str
    size: str
    x_min: int
    y_min: int
    x_max: int
    y_max: int


def draw_film(anatomy: Anatomy, pose: Pose, findings: Sequence[PhantomFinding]) -> tuple[npt.NDArray[np.uint8], list[Box]]:
    """Draw a film of the patient.

    Returns:
        (rows, columns) uint8 grey levels, and one box for each side of each finding that the report is certain of.
    """
    scene, boxes = draw_scene(anatomy, pose, findings)
    return develop(scene), boxes


def draw_scene(anatomy: Anatomy, pose: Pose, findings: Sequence[PhantomFinding]) -> tuple[Scene, list[Box]]:
    """Draw the chest with its findings as attenuation, before exposure and noise; return it and the boxes."""
    scene = normal_chest(anatomy, pose, findings)
    boxes = []
    for finding in findings:
        for side in finding.sides:
            if finding.strength == 0:
                continue
            change = _DRAWERS[finding.name](scene, finding, 1.0 if side == "left" else -1.0)
            if finding.name != "Cardiomegaly":  # the heart is already drawn as large as it is
                scene.attenuation += change
            if finding.certain:
                boxes.append(_box(finding, side, np.abs(change)))
    return scene, boxes


def _box(finding: PhantomFinding, side: str, change: Field) -> Box:
    seen = change > _VISIBLE * change.max()
    rows, columns = seen.any(axis=1).nonzero()[0], seen.any(axis=0).nonzero()[0]
    return Box(
        finding=finding.name,
        side=side,
        zone=finding.zone,
        size=finding.size,
        x_min=int(columns[0]),
        y_min=int(rows[0]),
        x_max=int(columns[-1]) + 1,
        y_max=int(rows[-1]) + 1,
    )


def _half(scene: Scene, sign: float) -> Field:
    """1 on the patient's side (+1 left, -1 right), 0 on the other."""
    return ramp(sign * scene.x, 0.02)


def _heart_shadow(scene: Scene, finding: PhantomFinding, sign: float) -> Field:
    return scene.heart


def _effusion(scene: Scene, finding: PhantomFinding, sign: float) -> Field:
    """Fluid in place of air below a meniscus that climbs the chest wall."""
    dome = scene.anatomy.domes[1 if sign > 0 else 0] - 0.8 * (1 - scene.pose.inspiration)
    level = dome + (0.12, -0.10, -0.42)[finding.grade] + 0.04 * finding.variation
    rise = (0.26, 0.30, 0.28)[finding.grade]
    climb = np.clip((scene.u - 0.22) / 0.46, 0, 1)
    fluid = ramp(scene.y - level + rise * climb**2, 0.06) * _half(scene, sign)
    filled = scene.attenuation + AIR * scene.air - VESSEL * scene.vessels
    filled += 0.4 * scene.air * (1.0 - filled)  # the ribs show less through fluid
    change: Field = finding.strength * fluid * (filled - scene.attenuation)
    return change


def _pneumothorax(scene: Scene, finding: PhantomFinding, sign: float) -> Field:
    """Air without vessels between the chest wall and the thin bright edge of a lung shrunk towards its hilum."""
    shrink = (0.20, 0.31, 0.44)[finding.grade] + 0.03 * finding.variation
    heights = np.linspace(-1.6, 1.6, 1024, dtype=np.float32)
    above = np.clip((0.25 - heights) / 0.55, 0, 1)  # nothing has come off below the middle of the chest
    lower = 0.1 + (heights - 0.1) * (1 + 0.75 * shrink * above)
    wall = chest_wall(lower, scene.anatomy, scene.pose.inspiration)
    edge = look_up((0.12 + (wall - 0.12) * (1 - shrink * above)).astype(np.float32), scene.y)
    within = _half(scene, sign) * scene.lungs * ramp(0.25 - scene.y, 0.2)
    free = ramp(scene.u - edge, 0.015) * within
    line = ramp(0.013 - np.abs(scene.u - edge), 0.016) * within * ramp(edge - 0.13, 0.03)
    shrunk = within * (1 - free)
    darker = free * (-0.28 - VESSEL * scene.vessels)
    return finding.strength * (darker + 0.32 * line + 0.05 * shrunk)


def _opacity(scene: Scene, finding: PhantomFinding, sign: float) -> Field:
    """A patch with a ragged edge in one zone of one lung."""
    spread = (0.105, 0.145, 0.19)[finding.grade]
    x = sign * (
        0.42 + 0.05 * finding.variation + (0.08 if sign > 0 and finding.zone == "lower" else 0.0) - 0.04 * (finding.zone == "upper")
    )
    y = _ZONE_HEIGHTS[finding.zone] + 0.04 * math.sin(9 * finding.variation)
    rng = np.random.default_rng(int(1e6 * (finding.variation + 1)))
    patch = bump(scene, x, y, spread, spread * 0.9)
    patch = np.clip(patch * (1.4 + 0.3 * cloud(rng, patch.shape, 24)), 0, 1)
    return finding.strength * patch * (0.72 * scene.air - VESSEL * scene.vessels)


def _edema(scene: Scene, finding: PhantomFinding, sign: float) -> Field:
    """Haze around the hilum, as butterfly wings."""
    haze = bump(scene, sign * 0.31, 0.0, 0.17 + 0.02 * finding.variation, 0.30)
    rng = np.random.default_rng(int(1e6 * (finding.variation + 1)))
    haze *= _half(scene, sign) * (1 + 0.16 * cloud(rng, haze.shape, 40))
    depth = (0.36, 0.46, 0.56)[finding.grade]
    return finding.strength * haze * (depth * scene.air - 0.5 * VESSEL * scene.vessels)


def _atelectasis(scene: Scene, finding: PhantomFinding, sign: float) -> Field:
    """One to three bands across the lung, each as thick as the finding's size says."""
    slope = sign * (0.12 + 0.22 * finding.variation)
    x = sign * (0.53 if sign > 0 and finding.zone == "lower" else 0.40)
    y = (0.30 if finding.zone == "lower" else 0.02) - 0.5 * (1 - scene.pose.inspiration)
    thick = (0.020, 0.024, 0.028)[finding.grade]
    across, down = scene.x - x, scene.y - y
    along = across * math.cos(slope) + down * math.sin(slope)
    off = down * math.cos(slope) - across * math.sin(slope)
    bands = np.zeros_like(off)
    for number in range(finding.grade + 1):
        middle = 0.085 * (number - finding.grade / 2)
        bands = np.maximum(bands, ramp(thick - np.abs(off - middle), 0.025))
    return (0.48 * finding.strength) * bands * ramp(0.21 - np.abs(along), 0.06) * scene.air


def _device(scene: Scene, finding: PhantomFinding, sign: float) -> Field:
    if finding.kind == "pacemaker":
        return _pacemaker(scene, finding, sign)
    wander = 0.03 * finding.variation
    end = [(-0.12, -0.34), (-0.11, -0.08 + wander)]  # in the superior vena cava, right of the spine
    if finding.kind == "internal jugular":
        start = [(sign * 0.20, -1.05), (sign * 0.15, -0.80), (sign * 0.11 if sign > 0 else -0.13, -0.58)]
    else:
        start = [(sign * 0.62, -0.50 + wander), (sign * 0.40, -0.62), (sign * 0.17, -0.58)]
    return 0.75 * scene.strokes([(_curve([*start, *end]), 0.036)], blur=0.5)


def _pacemaker(scene: Scene, finding: PhantomFinding, sign: float) -> Field:
    """A generator below the clavicle and two leads through the superior vena cava into the heart."""
    x, y = sign * (0.56 + 0.03 * finding.variation), -0.44 + 0.03 * finding.variation
    across, down = (scene.x - x) / 0.125, (scene.y - y) / 0.105
    box = ramp(1 - across**4 - down**4, 0.3)
    begin = [(x - sign * 0.05, y - 0.09), (sign * 0.36, -0.64), (sign * 0.16, -0.55), (-0.09, -0.34), (-0.10, -0.05)]
    atrial = [*begin, (-0.12, 0.18), (-0.03, 0.22)]
    ventricular = [*begin, (-0.06, 0.26), (0.08, 0.42), (0.28, 0.44)]
    leads = scene.strokes([(_curve(atrial), 0.020), (_curve(ventricular), 0.020)], blur=0.5)
    return 0.85 * box + 0.50 * leads * (1 - box)


def _curve(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Round the corners of a polyline, by cutting each twice (Chaikin)."""
    rounded = list(points)
    for _ in range(2):
        cut = [rounded[0]]
        for (x0, y0), (x1, y1) in pairwise(rounded):
            cut += [(0.75 * x0 + 0.25 * x1, 0.75 * y0 + 0.25 * y1), (0.25 * x0 + 0.75 * x1, 0.25 * y0 + 0.75 * y1)]
        rounded = [*cut, rounded[-1]]
    return rounded


_DRAWERS: dict[str, Callable[[Scene, PhantomFinding, float], Field]] = {
    "Pleural Effusion": _effusion,
    "Cardiomegaly": _heart_shadow,
    "Pneumothorax": _pneumothorax,
    "Lung Opacity": _opacity,
    "Edema": _edema,
    "Atelectasis": _atelectasis,
    "Support Devices": _device,
}
