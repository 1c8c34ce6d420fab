"""The normal chest of a phantom as a sum of attenuation.

Coordinates: x to the picture's right (the patient's LEFT), y down, in units of half the picture's short side,
from the middle of the chest; u = |x|. Attenuation adds up along a ray (Beer-Lambert), so organs are added and
air is taken away; 0 is black, tissue about 1, bone above.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from index.corpora.phantom_anatomy import Anatomy, Pose
from index.corpora.phantom_cases import PhantomFinding

Field = npt.NDArray[np.floating[Any]]  # float32 throughout: half the time of float64

AIR = 0.66  # what a full depth of lung takes away from tissue
VESSEL = 0.14  # what the vessels of the lung add

Polyline = tuple[Sequence[tuple[float, float]], float]

_STEPS = 1024  # entries of a table over y or x in -1.6..1.6
_REACH = 1.6
_AXIS = np.linspace(-_REACH, _REACH, _STEPS, dtype=np.float32)


@dataclass(slots=True)
class Scene:
    """A film while it is drawn: fields are (H, W) float32.

    `attenuation` is the picture so far, `air` how much lung a ray meets (0..1), `outer` the chest wall's u at each
    height, `lungs` the two lungs before the heart hides a part.
    """

    pose: Pose
    anatomy: Anatomy
    x: Field
    y: Field
    u: Field
    attenuation: Field
    air: Field
    lungs: Field
    heart: Field
    outer: Field
    vessels: Field

    def strokes(self, lines: Sequence[Polyline], blur: float, finer: int = 2) -> Field:
        """Draw polylines, smooth at the edges; return their cover, (H, W) 0..1.

        Args:
            lines: Points (x, y) and a width, in units.
            blur: Standard deviation in pixels.
            finer: They are drawn so many times larger and then reduced.
        """
        pose, scale = self.pose, finer * _scale(self.pose)
        cos, sin = scale * math.cos(pose.angle), scale * math.sin(pose.angle)
        right, down = scale * pose.shift[0] + finer * pose.columns / 2, scale * pose.shift[1] + finer * pose.rows / 2
        large = Image.new("L", (finer * pose.columns, finer * pose.rows))
        pen = ImageDraw.Draw(large)
        for points, width in lines:
            places = [(cos * x - sin * y + right, sin * x + cos * y + down) for x, y in points]  # the inverse of _grid
            pen.line(places, fill=255, width=max(1, round(scale * width)), joint="curve")
        cover = large.reduce(finer).filter(ImageFilter.GaussianBlur(blur))
        return np.asarray(cover, dtype=np.float32) / 255


def ramp(depth: Field, width: float) -> Field:
    """Smooth step: 0 where depth is below -width/2, 1 above width/2 (units)."""
    step = depth * (1 / width)
    step += 0.5
    np.maximum(step, 0, out=step)
    np.minimum(step, 1, out=step)
    square = step * step
    step *= -2
    step += 3
    step *= square
    return step


def bump(scene: Scene, x: float, y: float, across: float, down: float) -> Field:
    """Gaussian hill of height 1 at (x, y), standard deviations in units."""
    horizontal, vertical = (scene.x - x) / across, (scene.y - y) / down
    return np.exp(-0.5 * (horizontal * horizontal + vertical * vertical))


def chest_wall(y: npt.ArrayLike, anatomy: Anatomy, inspiration: float) -> Field:
    """How far from the middle the lung reaches at height y: a quarter of a superellipse above its widest level."""
    top, base = -0.80 * anatomy.length * inspiration, 0.50
    below = np.clip((base - np.asarray(y, dtype=np.float32)) / (base - top), 0, 1)
    return np.asarray(0.73 * anatomy.width * (1 - below**2.9) ** (1 / 2.7), dtype=np.float32)


def look_up(table: Field, at: Field) -> Field:
    """Read a table over -1.6..1.6 at each pixel (nearest entry): a tenth of the time of np.interp."""
    place = (at + _REACH) * ((_STEPS - 1) / (2 * _REACH))
    return table.take(place.astype(np.int32), mode="clip")


def cloud(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Field:
    """Smooth noise of `cells` x `cells` random values, (H, W) of standard deviation near 1."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), dtype=np.float32)


def normal_chest(anatomy: Anatomy, pose: Pose, findings: Sequence[PhantomFinding] = ()) -> Scene:
    """Draw the chest without findings, but with the heart as large as they say."""
    x, y = _grid(pose)
    u = np.abs(x)
    outer = look_up(chest_wall(_AXIS, anatomy, pose.inspiration), y)
    domes = _diaphragm(anatomy, pose, x)
    above = ramp(domes - y, 0.03)
    middle = _mediastinum(anatomy, x, y) - u
    lungs = ramp(outer - u, 0.05) * ramp(-middle, 0.04) * above
    heart = _heart(anatomy, pose, findings, x, y)
    scene = Scene(pose, anatomy, x, y, u, np.zeros_like(x), lungs * (1 - 0.9 * heart), lungs, heart, outer, np.zeros_like(x))
    scene.vessels = _vessels(scene) * scene.air
    body = _body(scene)
    scene.attenuation = body * (0.98 - 0.30 * (u / 1.05) ** 4) - AIR * scene.air
    scene.attenuation += VESSEL * scene.vessels + 0.14 * np.maximum(heart, ramp(middle, 0.05) * ramp(y + 0.75, 0.5))
    scene.attenuation += _bones(scene)
    scene.attenuation += _soft_parts(scene, body, above)
    shoulders = _shoulders(scene, body)
    scene.attenuation[: len(shoulders)] += shoulders
    return scene


def _scale(pose: Pose) -> float:
    return min(pose.columns, pose.rows) / 2 * pose.zoom


def _grid(pose: Pose) -> tuple[Field, Field]:
    """Where in the anatomy each pixel's middle lies: the inverse of the places in Scene.strokes."""
    columns = (np.arange(pose.columns) + 0.5 - pose.columns / 2) / _scale(pose) - pose.shift[0]
    rows = ((np.arange(pose.rows) + 0.5 - pose.rows / 2) / _scale(pose) - pose.shift[1])[:, None]
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    return (cos * columns + sin * rows).astype(np.float32), (cos * rows - sin * columns).astype(np.float32)


def _diaphragm(anatomy: Anatomy, pose: Pose, x: Field) -> Field:
    """Height of the two domes: highest a little inside the middle of each lung, falling to the costophrenic angles."""
    right, left = anatomy.domes
    top = right + (left - right) * (0.5 + 0.5 * np.tanh(_AXIS / 0.08)) - 0.8 * (1 - pose.inspiration)
    off = (np.abs(_AXIS) - 0.33) / 0.40
    fall = np.where(off > 0, 0.27 * np.abs(off) ** 2.6, 0.10 * off**2)
    return look_up((top + fall).astype(np.float32), x)


def _mediastinum(anatomy: Anatomy, x: Field, y: Field) -> Field:
    """How far the tissue between the lungs reaches: right the vena cava, left aortic knob and pulmonary trunk."""
    right = np.interp(_AXIS, (-0.8, -0.55, -0.2, 0.0, 0.2, 0.4, 0.6), (0.12, 0.15, 0.15, 0.17, 0.12, 0.14, 0.24))
    knob = anatomy.knob * np.exp(-(((_AXIS + 0.34) / 0.10) ** 2))
    trunk = 0.08 * np.exp(-(((_AXIS + 0.06) / 0.13) ** 2))
    left = np.interp(_AXIS, (-0.8, -0.5, 0.0, 0.3, 0.45, 0.6), (0.11, 0.11, 0.13, 0.12, 0.20, 0.32)) + knob + trunk
    return np.where(x > 0, look_up(left.astype(np.float32), y), look_up(right.astype(np.float32), y))


def _heart(anatomy: Anatomy, pose: Pose, findings: Sequence[PhantomFinding], x: Field, y: Field) -> Field:
    """The right atrium and the left ventricle, whose apex points to the patient's left, as one shadow 0..1."""
    big = next((finding for finding in findings if finding.name == "Cardiomegaly"), None)
    growth = 0.0 if big is None else big.strength * (0.30, 0.45, 0.60)[big.grade]
    size = anatomy.heart if big is None else anatomy.heart + big.strength * (1.0 - anatomy.heart)  # no small heart is an enlarged one
    size *= anatomy.width * (1.06 if pose.view == "AP" else 1.0)
    lift = 0.5 * (1 - pose.inspiration)

    def ellipse(centre: tuple[float, float], radii: tuple[float, float], tilt: float) -> Field:
        across, down = x - centre[0], y - centre[1]
        cos, sin = math.cos(tilt), math.sin(tilt)
        long, short = (across * cos + down * sin) / radii[0], (down * cos - across * sin) / radii[1]
        return ramp(1 - long * long - short * short, 0.22)

    atrium = ellipse((-0.03, 0.25 - lift), (size * 0.19 * (1 + 0.35 * growth), size * 0.33), 0.0)
    left = (0.12 + 0.14 * growth, 0.30 - lift)
    ventricle = ellipse(left, (size * 0.35 * (1 + growth), size * 0.25 * (1 + 0.30 * growth)), 0.62)
    return np.maximum(atrium, ventricle)


def _body(scene: Scene) -> Field:
    """Neck, shoulders and trunk, and the arms where the film is wide enough to show them; 0..1."""
    levels = (-1.6, -1.06, -0.98, -0.88, -0.76, -0.62, -0.40, -0.20, 0.00, 0.50, 1.00, 1.6)
    widths = (0.25, 0.26, 0.36, 0.66, 0.94, 1.08, 1.08, 1.02, 0.97, 0.95, 0.98, 1.02)
    trunk = np.interp(_AXIS, levels, widths).astype(np.float32) * scene.anatomy.width
    body = ramp(look_up(trunk, scene.y) - scene.u, 0.06)
    if scene.pose.columns <= scene.pose.rows:
        return body
    arm = ramp(0.16 - np.abs(scene.u - 1.22 - 0.06 * scene.y), 0.10) * ramp(scene.y + 0.62, 0.15)
    return np.maximum(body, 0.8 * arm)


def _bones(scene: Scene) -> Field:
    """Ribs and spine, added up."""
    u, y, anatomy = scene.u, scene.y, scene.anatomy
    cage = ramp(scene.outer + 0.05 - u, 0.05) * ramp(u - 0.09, 0.05)
    behind = _comb((y - 0.52 * u * u) / anatomy.rib_spacing + anatomy.rib_phase, 0.50) * ramp(0.78 - y, 0.1)
    before = _comb((y + 0.55 * u) / (1.12 * anatomy.rib_spacing) + anatomy.rib_phase, 0.42) * ramp(u - 0.34, 0.15)
    bones = cage * (0.12 * behind + 0.06 * before * ramp(0.5 - y, 0.2)) * (1 - 0.5 * scene.heart)
    middle = np.abs(scene.x - anatomy.spine * (1 - y * y))
    discs = 1 - 0.35 * _comb(y / 0.15, 0.25)
    bones += 0.11 * ramp(0.08 - middle, 0.04) * discs
    return bones


def _shoulders(scene: Scene, body: Field) -> Field:
    """Clavicles, shoulder blades, heads of the humerus and the windpipe, added up: only the upper rows of the film."""
    rows = int((scene.y.min(axis=1) < 0.15).sum())
    u, y = scene.u[:rows], scene.y[:rows]
    rise = -0.60 - scene.anatomy.clavicle * (u - 0.1) / 0.6 - 0.05 * np.sin(4.5 * (u - 0.1))
    rise = rise - (0.06 if scene.pose.view == "AP" else 0.0)
    parts = 0.17 * ramp(0.028 - np.abs(y - rise), 0.03) * ramp(u - 0.08, 0.03) * ramp(0.88 - u, 0.1)
    blade = (0.58 if scene.pose.view == "AP" else 0.72) + 0.16 * (y + 0.3)
    parts += 0.07 * ramp(u - blade, 0.03) * ramp(y + 0.66, 0.1) * ramp(0.05 - y, 0.2)
    away = (u - 0.99) ** 2 + (y + 0.62) ** 2
    parts += 0.16 * ramp(0.02 - away, 0.02) * body[:rows]
    return parts - 0.12 * ramp(0.045 - u, 0.04) * ramp(-0.16 - y, 0.1)


def _comb(phase: Field, share: float) -> Field:
    """A smooth row of bars, one a turn of the phase, `share` of the turn wide; 0..1."""
    return ramp((share / 2) - np.abs(phase - np.rint(phase)), 0.18)


def _soft_parts(scene: Scene, body: Field, above: Field) -> Field:
    """Hila, abdomen with the stomach's gas, breasts, added up."""
    u, y, anatomy = scene.u, scene.y, scene.anatomy
    hila = np.exp(-((u - 0.20) ** 2) / 0.008 - (y + 0.02) ** 2 / 0.026)
    parts = 0.16 * hila * scene.lungs + 0.16 * (1 - above) * body * ramp(y - 0.2, 0.2)
    if anatomy.bubble:
        gas = ((scene.x - 0.36) / 1.5) ** 2 + (y - (anatomy.domes[1] + anatomy.bubble + 0.06)) ** 2
        parts -= 0.22 * ramp(1 - gas / anatomy.bubble**2, 0.6)
    if anatomy.breast:
        fold = ((u - 0.46) / 0.34) ** 2 + ((y - 0.34) / 0.30) ** 2
        parts += anatomy.breast * ramp(1 - fold, 0.5)
    return parts


def _vessels(scene: Scene) -> Field:
    """The patient's tree of vessels: branches that leave the hila, fork and thin out; cover 0..1."""
    rng = np.random.default_rng(scene.anatomy.vessels)
    lines: list[Polyline] = []
    for side in (-1.0, 1.0):
        for start in np.linspace(-1.2, 1.3, 7):
            _grow(lines, rng, (side * 0.17, -0.02), side, float(start + rng.normal(0, 0.12)), 0.026)
    return scene.strokes(lines, blur=0.9, finer=1)


def _grow(
    lines: list[Polyline],
    rng: np.random.Generator,
    root: tuple[float, float],
    side: float,
    angle: float,
    width: float,
) -> None:
    """Add a branch and, while wide enough, its two forks; angle 0 is outwards, above 0 down."""
    points = [root]
    for bend in rng.normal(0, 0.10, size=3):
        angle += float(bend)
        reach = 0.035 + 2.4 * width * (0.6 + 0.4 * abs(math.sin(angle)))
        points.append((points[-1][0] + side * reach * math.cos(angle), points[-1][1] + reach * math.sin(angle)))
    lines.append((points, width))
    if width > 0.010:
        for turn in (-0.35, 0.35):
            _grow(lines, rng, points[-1], side, angle + turn + float(rng.normal(0, 0.12)), width * 0.62)
