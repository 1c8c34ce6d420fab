"""The image half of an encoder in NumPy over mapped weights, as it was recorded: the same vectors without torch.

What torch did to one film is a list of operations (encoders.recording makes it), which holds for every image family alike; run again
with another film it gives what torch gives.
"""

import io
import json
import zipfile
import zlib
from base64 import b85decode, b85encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.array_operations import OPERATIONS
from encoders.checkpoint import WEIGHTS
from encoders.errors import UncoveredError
from encoders.mapped_weights import map_safetensors

Vectors = NDArray[np.float32]
Values = dict[int, NDArray[Any]]

PARTS = ("image.", "image_head.")  # of the weights

_NORM_ERROR = 1e-3
# What steps raise that fit neither each other nor the weights
_FAULTS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


class Step(NamedTuple):
    """An operation and its arguments: JSON, in which {"value": n}, {"weight": name} and {"constant": n} stand for arrays."""

    operation: str
    arguments: list[Any]
    named: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordedNetwork:
    """What is done to one film, from grey levels to unit vectors; its weights are in the checkpoint.

    Attributes:
        steps: In their order. Value 0 is the film, (1, S, S) uint8, and value n what the n-th step makes.
        constants: Arrays that depend on neither film nor weights, such as masks.
        outputs: Which values are the (1, D) joint vector and the (1, F) features.
    """

    steps: tuple[Step, ...]
    constants: tuple[NDArray[Any], ...]
    outputs: tuple[int, int]

    def to_text(self) -> str:
        """All of it in some kilobytes of ASCII."""
        content = np.frombuffer(json.dumps([self.steps, self.outputs]).encode(), np.uint8)
        with io.BytesIO() as file:
            np.savez_compressed(file, content, *self.constants)
            return b85encode(file.getvalue()).decode()

    @classmethod
    def from_text(cls, text: str) -> "RecordedNetwork":
        """Read what to_text wrote.

        Raises:
            UncoveredError: If it is damaged, or has operations that this version does not know.
        """
        try:
            with np.load(io.BytesIO(b85decode(text)), allow_pickle=False) as arrays:
                content, *constants = (arrays[f"arr_{number}"] for number in range(len(arrays.files)))
            steps, (joint, features) = json.loads(content.tobytes())
            network = cls(tuple(Step(*step) for step in steps), tuple(constants), (int(joint), int(features)))
            unknown = [step.operation for step in network.steps if step.operation not in OPERATIONS]
        except (*_FAULTS, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UncoveredError(f"what was recorded of its image network is damaged ({type(error).__name__})") from error
        if unknown:
            raise UncoveredError(f"its image network was recorded with the operation {unknown[0]}, which this medret does not know")
        return network


class PlainImage:
    """Encodes films as the DualEncoder in a checkpoint does.

    The weights are views of the file; those stored in half precision are widened. Nothing is compared with the fingerprint, as
    that would read all bytes: whoever calls has compared what says that these are the files that were recorded.

    Args:
        folder: A checkpoint.
        network: Recorded from it.

    Raises:
        MedretError: If files are missing or damaged.
    """

    def __init__(self, folder: Path, network: RecordedNetwork) -> None:
        held = map_safetensors(folder / WEIGHTS, PARTS)
        self._weights = {name: np.asarray(view, np.float32) if view.dtype.kind == "f" else view for name, view in held.items()}
        self._network = network

    def encode(self, films: NDArray[np.uint8]) -> tuple[Vectors, Vectors]:
        """Return the (N, D) joint vectors and the (N, F) features, float32 of unit L2 norm, of (N, S, S) films, one after the other.

        Raises:
            UncoveredError: If what was recorded cannot be computed, or gives no such vectors.
        """
        try:
            made = [self._run(film[None]) for film in films]
            joint, features = (np.concatenate(found) for found in zip(*made, strict=True))
            unit = all((np.abs(np.linalg.norm(found, axis=1) - 1) < _NORM_ERROR).all() for found in (joint, features))  # not where NaN
        except _FAULTS as error:
            raise UncoveredError(f"what was recorded of its image network cannot be computed ({type(error).__name__})") from error
        if not unit:
            raise UncoveredError("what was recorded of its image network gives no unit vectors")
        return joint, features

    def _run(self, film: NDArray[np.uint8]) -> tuple[Vectors, ...]:
        values: Values = {0: film}
        last_use = {value: number for number, step in enumerate(self._network.steps, 1) for value in _values(step)}
        for number, step in enumerate(self._network.steps, 1):
            arguments, named = self._given(step.arguments, values), self._given(step.named, values)
            values[number] = OPERATIONS[step.operation](*arguments, **named)
            for value in set(_values(step)) - set(self._network.outputs):
                if last_use[value] == number:  # a large network makes more than the memory of a laptop holds
                    del values[value]
        return tuple(values[output] for output in self._network.outputs)

    def _given(self, argument: Any, values: Values) -> Any:
        """An argument, with the arrays that it stands for."""
        match argument:
            case {"value": int(number)}:
                return values[number]
            case {"weight": str(name)}:
                return self._weights[name]
            case {"constant": int(number)}:
                return self._network.constants[number]
            case list() | tuple():
                return [self._given(part, values) for part in argument]
            case dict():
                return {name: self._given(part, values) for name, part in argument.items()}
        return argument


def _values(argument: Any) -> Iterator[int]:
    """The numbers of the values in arguments."""
    if isinstance(argument, Mapping):
        yield from [argument["value"]] if "value" in argument else _values(list(argument.values()))
    elif isinstance(argument, list | tuple):
        for part in argument:
            yield from _values(part)
