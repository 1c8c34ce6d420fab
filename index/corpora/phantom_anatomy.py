"""A phantom's normal anatomy, and how each film of it is taken."""

from dataclasses import dataclass

import numpy as np

_FORMATS = ((256, 308), (308, 256), (256, 256), (256, 320), (320, 256), (256, 288))  # columns, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What stays the same in every film of a patient; lengths in units (a unit is about 128 pixels), factors around 1."""

    width: float  # of the thorax
    length: float  # of the lungs
    heart: float  # of the heart, against the width of the thorax
    domes: tuple[float, float]  # height of the right and of the left diaphragm, y in units (down)
    knob: float  # how far the aortic knob stands out
    rib_spacing: float
    rib_phase: float
    spine: float  # how far the spine bows to the picture's right
    clavicle: float  # slope
    breast: float  # attenuation of breast shadows, 0 for none
    bubble: float  # radius of the gas bubble of the stomach, 0 for none
    woman: bool
    vessels: int  # seed of the tree of vessels


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How one film was taken."""

    view: str  # "PA" or "AP"
    columns: int
    rows: int
    angle: float  # radians
    shift: tuple[float, float]  # units, right and down
    zoom: float  # short side of the picture / 2 units
    inspiration: float  # length of the lungs against the patient's full breath
    exposure: float  # gamma
    noise: float  # standard deviation, in units of attenuation
    clip: tuple[float, float]  # attenuation shown black and white
    marker: bool
    seed: int  # of the noise


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Make up what stays the same in every film of a patient."""
    woman = bool(rng.random() < 0.5)
    right = rng.uniform(0.44, 0.54)
    return Anatomy(
        width=rng.uniform(0.93, 1.05) * (0.97 if woman else 1.0),
        length=rng.uniform(0.94, 1.05),
        heart=rng.uniform(0.89, 1.01),
        domes=(right, right + rng.uniform(0.02, 0.08)),
        knob=rng.uniform(0.04, 0.10),
        rib_spacing=rng.uniform(0.155, 0.185),
        rib_phase=rng.random(),
        spine=rng.uniform(-0.03, 0.03),
        clavicle=rng.uniform(0.10, 0.26),
        breast=rng.uniform(0.04, 0.11) if woman else 0.0,
        bubble=rng.uniform(0.06, 0.12) if rng.random() < 0.6 else 0.0,
        woman=woman,
        vessels=int(rng.integers(2**31)),
    )


def draw_pose(rng: np.random.Generator, view: str) -> Pose:
    """Make up how a film was taken: "PA", or "AP", which is turned more, breathed in less and noisier."""
    columns, rows = _FORMATS[int(rng.integers(len(_FORMATS)))]
    return Pose(
        view=view,
        columns=columns,
        rows=rows,
        angle=float(np.deg2rad(rng.normal(0, 1.5 if view == "PA" else 2.5))),
        shift=(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.05, 0.05))),
        zoom=float(rng.uniform(0.96, 1.10)),
        inspiration=float(rng.uniform(0.96, 1.02) if view == "PA" else rng.uniform(0.88, 0.98)),
        exposure=float(rng.uniform(0.75, 1.35)),
        noise=float(rng.uniform(0.008, 0.02) if view == "PA" else rng.uniform(0.012, 0.035)),
        clip=(float(rng.uniform(0.02, 0.10)), float(rng.uniform(1.4, 1.6))),
        marker=bool(rng.random() < 0.6),
        seed=int(rng.integers(2**31)),
    )
