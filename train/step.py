"""One step of optimisation, on this process's share of a batch."""

import math
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

from encoders.dual import DualEncoder
from encoders.errors import MedretError
from train.augment import AugmentConfig, AugmentDraw, augment, draw_augmentation
from train.batches import Batch
from train.config import TrainConfig
from train.distributed import Group, share_rows
from train.gradients import backward_in_chunks
from train.objective import Objective
from train.parameters import autocast_dtype, build_optimizer, has_live_batchnorm, set_rate
from train.seeds import AUGMENTATION, DROPOUT, IMAGE_DROPOUT, seeded, seeded_torch

Encode = Callable[[], Tensor]


class Learner:
    """An encoder with its objective and its optimizer.

    Args:
        encoder: Of `prepare_encoder` and `place_encoder`.
        config: Settings.
        group: Who shares the batches.
    """

    def __init__(self, encoder: DualEncoder, config: TrainConfig, group: Group) -> None:
        self.encoder, self.config, self.group = encoder, config, group
        self.objective = Objective(config).to(group.device)
        self.model = nn.ModuleDict({"encoder": encoder, "objective": self.objective})  # all that learns
        self.optimizer = build_optimizer(encoder, self.objective, config)
        self.synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in encoder.modules())
        self.augmentation = AugmentConfig(**{name: getattr(config, name) for name in AugmentConfig.__slots__})

    def begin(self) -> None:
        """Go into training mode; encoders of which nothing learns stay out of it, without dropout."""
        self.encoder.train(self.config.learn == "all")

    def share(self, total: int) -> range:
        """The rows of a batch of `total` that this process encodes."""
        return share_rows(total, self.config.chunk_size, self.group.rank, self.group.size)

    def step(self, batch: Batch, films: Tensor, factor: float) -> float:
        """Learn from one batch.

        Args:
            batch: The whole of it.
            films: (n, S, S) uint8 on the CPU, those of this process's images.
            factor: On the full learning rates, 0 to 1.

        Returns:
            The loss, nats.

        Raises:
            MedretError: If it or its gradient is not finite, or live BatchNorm has a process without images, or a chunk of one.
        """
        rate = set_rate(self.optimizer, factor)
        loss = self._backward(batch, films)
        self.group.sum_gradients(self.encoder.parameters())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.clamp_()
        found = {"loss": loss.item(), "gradient's norm": norm.item()}  # not before: a GPU would be waited for in the midst of the step
        for name, value in found.items():
            if not math.isfinite(value):
                raise MedretError(
                    f"the {name} of step {batch.step + 1} is {value} at learning rate {rate:.3g}, expected a finite number. "
                    "Lower learning_rate, or set gradient_clip or precision = 'fp32'"
                )
        return found["loss"]

    @torch.inference_mode()
    def loss(self, batch: Batch, films: Tensor) -> float:
        """The loss of a batch as it is, films (N, S, S) uint8 of the encoder's size, nats; of this process alone."""
        films = films.to(self.group.device, non_blocking=True)
        images = torch.cat([encode() for encode in self._images(range(len(batch.rows)), films, None)])
        texts = torch.cat([encode() for encode in self._texts(batch, range(_columns(batch)))])
        return float(self.objective(images, texts, batch))

    def _backward(self, batch: Batch, films: Tensor) -> Tensor:
        """Add the gradients of this process's share to the encoder's parameters, the whole to the objective's; returns the loss, ()."""
        config = self.config
        rows, columns = self.share(len(batch.rows)), self.share(_columns(batch))
        if not rows and self.synchronised:
            raise MedretError(
                f"a batch of {len(batch.rows)} images leaves none to process {self.group.rank} of {self.group.size}, for which live "
                "BatchNorm of all would wait. Raise batch_size, start fewer processes, or set batchnorm = 'running'"
            )
        if config.chunk_size and len(rows) % config.chunk_size == 1 and has_live_batchnorm(self.encoder):
            raise MedretError(
                f"a batch of {len(batch.rows)} images in chunks of {config.chunk_size} leaves one of a single image, of which live "
                "BatchNorm can take no statistics. Choose another chunk_size, or set batchnorm = 'running'"
            )
        draw = draw_augmentation(self.augmentation, len(batch.rows), seeded_torch(config.seed, AUGMENTATION, batch.step))
        own = draw.rows(slice(rows.start, rows.stop)).to(self.group.device)
        return backward_in_chunks(
            self._images(rows, films.to(self.group.device, non_blocking=True), own),
            self._texts(batch, columns),
            lambda images, texts: self.objective(images, texts, batch),
            group=self.group,
            first_rows=(rows.start, columns.start),
            totals=(len(batch.rows), _columns(batch)),
            seed=partial(self._seed, batch.step),
        )

    def _seed(self, step: int, side: str, row: int) -> None:
        """Make dropout depend on the step and the row alone, whoever encodes it and whenever."""
        torch.manual_seed(int(seeded(self.config.seed, DROPOUT if side == "text" else IMAGE_DROPOUT, step, row).integers(2**63)))

    def _images(self, rows: range, films: Tensor, draw: AugmentDraw | None) -> list[Encode]:
        """What encodes the films of this process (n, S, S), a chunk each; augmented by their draw, if any."""

        def encode(chunk: slice) -> Tensor:
            chosen = films[chunk]
            if draw is not None:
                chosen = augment(chosen, draw.rows(chunk), self.encoder.config.preprocessing.size)
            return self._under_autocast(lambda: self.encoder.encode_images(chosen).joint)

        return self._chunks(encode, len(rows), self.encoder.image, self.encoder.image_head)

    def _texts(self, batch: Batch, columns: range) -> list[Encode]:
        """What encodes these columns of a batch, its texts and after them its prompts, a chunk each."""

        def encode(chunk: slice) -> Tensor:
            chosen = columns[chunk]
            texts = batch.texts[chosen.start : chosen.stop]
            names = batch.prompts[max(0, chosen.start - len(batch.texts)) : max(0, chosen.stop - len(batch.texts))]
            parts = [encode(given) for encode, given in ((self.encoder.encode_texts, texts), (self.encoder.encode_labels, names)) if given]
            return torch.cat([part.joint for part in parts])

        learned = [self.encoder.text, self.encoder.text_head, *([self.encoder.prompts] if self.encoder.prompts else [])]
        return self._chunks(lambda chunk: self._under_autocast(lambda: encode(chunk)), len(columns), *learned)

    def _chunks(self, encode: Callable[[slice], Tensor], rows: int, *parts: nn.Module) -> list[Encode]:
        size = self.config.chunk_size or max(rows, 1)
        chunks: list[Encode] = [partial(encode, slice(first, min(first + size, rows))) for first in range(0, rows, size)]
        learns = any(parameter.requires_grad for part in parts for parameter in part.parameters())
        return chunks if learns else [cache(chunk) for chunk in chunks]  # what nothing learns from is computed once

    def _under_autocast(self, encode: Encode) -> Tensor:
        """Products in bfloat16 where asked for, the vectors in float32."""
        dtype = autocast_dtype(self.config.precision, self.group.device)
        with torch.autocast(self.group.device.type, dtype=dtype, enabled=dtype is not None):
            return encode()


def _columns(batch: Batch) -> int:
    return len(batch.texts) + len(batch.prompts)
