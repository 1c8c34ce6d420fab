"""Recording how a film is encoded: each operation that torch runs from grey levels to unit vectors, to be run again without torch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from encoders.array_operations import OPERATIONS
from encoders.checkpoint import named_weights
from encoders.errors import UncoveredError
from encoders.plain_image import RecordedNetwork, Step

if TYPE_CHECKING:
    from encoders.dual import DualEncoder


def record_network(encoder: "DualEncoder") -> RecordedNetwork:
    """Record one film on its way through an encoder.

    Args:
        encoder: On the CPU, in float32 and evaluation mode.

    Raises:
        UncoveredError: If an operation is not computed in NumPy.
    """
    side = encoder.config.preprocessing.size
    film = torch.zeros(1, side, side, dtype=torch.uint8)
    # Under inference_mode operations arrive as a network calls them (linear, layer_norm), not as torch takes them apart
    with torch.inference_mode(), _Recorder(encoder, film) as recorder:
        joint, features = encoder.encode_images(film)
    return RecordedNetwork(tuple(recorder.steps), tuple(recorder.constants), (recorder.numbers[id(joint)], recorder.numbers[id(features)]))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is called while it is entered and computes with the film or with weights.

    All else, such as masks, is the same for every film: an array where it is used. What changes a tensor in place is noted as
    making a new one, which leaves older views of it as they were; a network that counts on them fails the comparison with torch.

    Args:
        encoder: Whose weights are named.
        film: Value 0.

    Attributes:
        numbers: The id of a tensor to the number of its value.
    """

    def __init__(self, encoder: "DualEncoder", film: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.constants: list[np.ndarray] = []
        self.numbers = {id(film): 0}
        self._alive = [film]  # an id may be used again otherwise
        self._weights = {_place(weight): name for name, weight in named_weights(encoder)}

    def __torch_dispatch__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note it."""
        kwargs = kwargs or {}
        made = called(*args, **kwargs)
        if any(id(tensor) in self.numbers or _place(tensor) in self._weights for tensor in _tensors([*args, *kwargs.values()])):
            self._note(called.overloadpacket.__name__.removesuffix("_"), args, kwargs, made)
        return made

    def _note(self, operation: str, args: Any, kwargs: Any, made: Any) -> None:
        if operation not in OPERATIONS or not isinstance(made, Tensor):
            raise UncoveredError(f"its image network has the operation {operation}, which is not computed in NumPy")
        self.steps.append(Step(operation, self._noted(args), {name: self._noted(item) for name, item in kwargs.items()}))
        self.numbers[id(made)] = len(self.steps)
        self._alive.append(made)

    def _noted(self, item: Any) -> Any:
        """An argument as JSON holds it; a dtype by its name."""
        if isinstance(item, list | tuple):
            return [self._noted(part) for part in item]
        if not isinstance(item, Tensor):
            return item if item is None or isinstance(item, bool | int | float) else str(item)
        if id(item) in self.numbers:
            return {"value": self.numbers[id(item)]}
        if (weight := self._weights.get(_place(item))) is not None:
            return {"weight": weight}
        self.constants.append(item.numpy())
        return {"constant": len(self.constants) - 1}


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    """What a weight and the same weight in another tensor object have in common."""
    return tensor.data_ptr(), tuple(tensor.shape)


def _tensors(items: Any) -> Iterator[Tensor]:
    for item in items:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, list | tuple):
            yield from _tensors(item)
