"""Continuous prompts: learned context vectors around the names of labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encoders.errors import MedretError
from encoders.tokens import Tokenizer

CONTEXTS = ("shared", "class")
POSITIONS = ("end", "middle", "front")
_SPREAD = 0.02  # of a random context, as in CoOp


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptConfig:
    """What, beside the context vectors, defines the prompts of an encoder.

    Attributes:
        names: The labels, as they are written and asked for.
        length: Context vectors of a prompt; where there are words, there are as many as those have pieces.
        context: One "shared" by all labels, or one per "class".
        position: Where the name stands: after the context ("end"), within or before it.
        words: What the context says at first; "" for random vectors.
    """

    names: tuple[str, ...]
    length: int = 16
    context: str = "shared"
    position: str = "end"
    words: str = ""

    def __post_init__(self) -> None:
        keys = [_key(name) for name in self.names]
        if not keys or not all(keys) or len(set(keys)) < len(keys):
            raise ValueError(f"names are {self.names}, expected different labels, none of them blank")
        if self.length < 1:
            raise ValueError(f"length is {self.length}, expected above 0")
        if self.context not in CONTEXTS:
            raise ValueError(f"context is {self.context!r}, expected one of {', '.join(CONTEXTS)}")
        if self.position not in POSITIONS:
            raise ValueError(f"position is {self.position!r}, expected one of {', '.join(POSITIONS)}")

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "names": list(self.names),
            "length": self.length,
            "context": self.context,
            "position": self.position,
            "words": self.words,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PromptConfig":
        """Read what to_dict wrote; TypeError, KeyError or ValueError where it is something else."""
        return cls(**{**values, "names": tuple(values["names"])})


class ContextPrompts(nn.Module):
    """Prompts [CLS] context name [SEP] whose context is no word but vectors that are learned.

    They enter a text encoder in place of word embeddings, so that it adds positions and token types as for a text,
    and only pads on the right. CoOp ends its prompts with a full stop; these end with the name (or the context), so
    that a context made of words gives what that text gives.

    Args:
        config: The names and the form of the prompts.
        tokenizer: Of the encoder that will read them.
        width: H, of its word embeddings.
        max_tokens: The most tokens it reads.

    Raises:
        MedretError: If a prompt is longer than the encoder reads.

    Source: CoOp, Zhou et al., IJCV 2022, arXiv:2109.01134.
    """

    ids: Tensor  # (C, T) int64, the padding id where the context goes
    mask: Tensor  # (C, T) int64, 1 for a real token
    slots: Tensor  # (C, T) bool, true where the context goes

    def __init__(self, config: PromptConfig, tokenizer: Tokenizer, width: int, max_tokens: int) -> None:
        super().__init__()
        self.config = config
        start, end = tokenizer.frame
        before = {"end": config.length, "middle": config.length // 2, "front": 0}[config.position]
        rows, slots = [], []
        for name in config.names:
            pieces = tokenizer.pieces(name, after_word=before > 0)
            rows.append([*start, *[tokenizer.padding_id] * before, *pieces, *[tokenizer.padding_id] * (config.length - before), *end])
            slots.append([False] * len(start) + [True] * before + [False] * len(pieces) + [True] * (config.length - before))
            if len(rows[-1]) > max_tokens:
                raise MedretError(
                    f"the prompt of {name!r} has {len(rows[-1])} tokens, the encoder reads {max_tokens}. "
                    "Make the context shorter, or give the encoder a larger max_tokens."
                )
        self.register_buffer("ids", _padded(rows, tokenizer.padding_id), persistent=False)
        self.register_buffer("mask", _padded([[1] * len(row) for row in rows], 0), persistent=False)
        self.register_buffer("slots", _padded(slots, 0, self.ids.shape[1]).bool(), persistent=False)
        contexts = 1 if config.context == "shared" else len(config.names)
        self.context = nn.Parameter(torch.randn(contexts, config.length, width) * _SPREAD)

    def say(self, vectors: Tensor) -> None:
        """Set every context to word embeddings, (length, H)."""
        with torch.no_grad():
            self.context.copy_(vectors.expand_as(self.context))

    def rows(self, names: Sequence[str]) -> list[int]:
        """The numbers of labels; letter case and spacing do not matter.

        Raises:
            MedretError: If a label is unknown; the known ones are listed.
        """
        known = {_key(name): number for number, name in enumerate(self.config.names)}
        for name in names:
            if _key(name) not in known:
                raise MedretError(f"label {name!r} has no learned prompt, expected one of: {', '.join(self.config.names)}")
        return [known[_key(name)] for name in names]

    def forward(self, rows: Sequence[int], embed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The prompts of B labels as a text encoder reads them.

        Args:
            rows: Numbers of labels.
            embed: Turns token ids, (B, T) int64, into the encoder's word embeddings, (B, T, H).

        Returns:
            Vectors, (B, T, H), and their mask, (B, T) int64, on the device of the context.
        """
        chosen = torch.tensor(rows, device=self.ids.device)
        vectors = embed(self.ids[chosen])  # (B, T, H)
        context = self.context[chosen if self.config.context == "class" else torch.zeros_like(chosen)]  # (B, length, H)
        return vectors.masked_scatter(self.slots[chosen].unsqueeze(-1), context.to(vectors.dtype)), self.mask[chosen]


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _padded(rows: Sequence[Sequence[int]], filling: int, width: int | None = None) -> Tensor:
    width = max(map(len, rows)) if width is None else width
    return torch.tensor([[*row, *[filling] * (width - len(row))] for row in rows])
