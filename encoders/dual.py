"""DualEncoder: images and texts into one space of unit vectors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.errors import MedretError
from encoders.image import ImageBackbone, choose_image
from encoders.preprocess import Fit, Preprocessing
from encoders.prompt import ContextPrompts, PromptConfig
from encoders.text import TEXT_PRESETS, TextBackbone, choose_text
from encoders.tokens import Tokenizer, learn_tokenizer

HEADS = ("nonlinear", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """All that, beside weights and tokenizer, defines an embedding."""

    image: Mapping[str, Any]  # kind, pooling, config
    text: Mapping[str, Any]  # kind, pooling, config
    preprocessing: Preprocessing
    dimension: int = 512  # D of the joint space
    head: str = "nonlinear"
    max_tokens: int = 128

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ValueError(f"dimension is {self.dimension}, expected above 0")
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}, expected one of {', '.join(HEADS)}")
        if self.max_tokens < 3:
            raise ValueError(f"max_tokens is {self.max_tokens}, expected at least 3")

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "image": dict(self.image),
            "text": dict(self.text),
            "preprocessing": self.preprocessing.to_dict(),
            "dimension": self.dimension,
            "head": self.head,
            "max_tokens": self.max_tokens,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EncoderConfig":
        """Read what to_dict wrote; TypeError, KeyError or ValueError where it is something else."""
        return cls(**{**values, "preprocessing": Preprocessing.from_dict(values["preprocessing"])})


class Encoded(NamedTuple):
    """The two vectors of a batch: unit L2 norm per row."""

    joint: Tensor  # (B, D) float32, the projected vector, comparable between images and texts
    features: Tensor  # (B, F) float32, the encoder's own output before projection


class DualEncoder(nn.Module):
    """An image encoder and a text encoder, each with a projection head into the joint space.

    Args:
        config: What defines the embedding beside weights and tokenizer.
        tokenizer: Turns texts into ids of the text encoder.
        image: The image backbone that `config.image` describes.
        text: The text backbone that `config.text` describes.

    Source: ConVIRT, Zhang et al., MLHC 2022, arXiv:2010.00747.
    """

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer, image: ImageBackbone, text: TextBackbone) -> None:
        super().__init__()
        if tokenizer.largest_id >= text.vocabulary_size:
            raise MedretError(
                f"text encoder: token id {tokenizer.largest_id} of the tokenizer, expected below the {text.vocabulary_size} "
                "rows of the embedding table. Get the tokenizer that belongs to the weights."
            )
        self.config = config
        self.tokenizer = tokenizer
        self.image = image
        self.text = text
        self.image_head = make_head(config.head, image.width, config.dimension)
        self.text_head = make_head(config.head, text.width, config.dimension)
        self.prompts: ContextPrompts | None = None
        self.running_batchnorm = False

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dimension(self) -> int:
        """D, of the joint vectors."""
        return self.config.dimension

    @property
    def max_tokens(self) -> int:
        """How many tokens of a text are read."""
        return self.config.max_tokens

    @property
    def image_width(self) -> int:
        """F, of the image features."""
        return self.image.width

    @property
    def text_width(self) -> int:
        """F, of the text features."""
        return self.text.width

    def encode_images(self, images: Tensor) -> Encoded:
        """Encode films; gradients flow unless the caller forbids them.

        Args:
            images: (B, S, S) uint8, or float32 grey levels 0 to 255, S as in the preprocessing; on any device.

        Raises:
            ValueError: If images is not (B, S, S).
        """
        size = self.config.preprocessing.size
        if images.ndim != 3 or tuple(images.shape[1:]) != (size, size):
            raise ValueError(f"images is {tuple(images.shape)}, expected (B, {size}, {size})")
        pixels = self.config.preprocessing.normalise(images.to(self.device, non_blocking=True))  # (B, 3, S, S)
        return _encoded(self.image(pixels), self.image_head)

    def encode_texts(self, texts: Sequence[str]) -> Encoded:
        """Encode texts, each cut at max_tokens; gradients flow unless the caller forbids them.

        Raises:
            ValueError: If there is no text, or one is empty.
        """
        if isinstance(texts, str):
            raise ValueError("texts is one string, expected a sequence of them")
        if not texts or not all(text.strip() for text in texts):
            raise ValueError(f"{len(texts)} texts, of which one is empty or none is there; expected words in each")
        batch = self.tokenizer(texts, self.config.max_tokens)
        features = self.text(batch.ids.to(self.device, non_blocking=True), batch.mask.to(self.device, non_blocking=True))
        return _encoded(features, self.text_head)

    def add_prompts(self, config: PromptConfig, seed: int = 0) -> None:
        """Give the labels continuous prompts, new ones in place of any that are there.

        Args:
            config: The labels and the form of their prompts; `words` decide their length.
            seed: Of a random context.

        Raises:
            MedretError: If a prompt is longer than the encoder reads.
        """
        words = self.tokenizer.pieces(config.words, after_word=config.position == "front")
        if words:
            config = replace(config, length=len(words))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            prompts = ContextPrompts(config, self.tokenizer, self.text.embedding_width, self.config.max_tokens)
        self.prompts = prompts.to(self.device)
        if words:
            self.prompts.say(self.text.embed(torch.tensor(words, device=self.device)))

    def encode_labels(self, names: Sequence[str]) -> Encoded:
        """Encode labels through their continuous prompts; gradients flow unless the caller forbids them.

        Raises:
            MedretError: If the encoder has no prompts, or none for one of the labels.
            ValueError: If there is no label.
        """
        if isinstance(names, str) or not names:
            raise ValueError("names is one string or empty, expected a sequence of labels")
        if self.prompts is None:
            raise MedretError(
                "the encoder has no learned prompts for labels. Ask with a text, or train prompts (objective umcl, prompts continuous)."
            )
        vectors, mask = self.prompts(self.prompts.rows(names), self.text.embed)
        return _encoded(self.text.forward_embedded(vectors, mask), self.text_head)

    def is_cut(self, texts: Sequence[str]) -> list[bool]:
        """For each text whether it is longer than the encoder reads."""
        cut: list[bool] = self.tokenizer(texts, self.config.max_tokens).cut.tolist()
        return cut

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many texts are longer than the encoder reads."""
        return sum(self.is_cut(texts))

    def train(self, mode: bool = True) -> "DualEncoder":
        """As in torch, but BatchNorm of frozen stages (or all, see set_batchnorm) keeps its running statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (self.running_batchnorm or not module.weight.requires_grad):
                module.eval()
        return self


def build_encoder(
    image: str | Path = "tiny",
    text: str | Path = "tiny",
    texts: Iterable[str] | None = None,
    *,
    image_weights: str | Path | None = None,
    size: int | None = None,
    fit: Fit = "pad",
    dimension: int | None = None,
    head: str = "nonlinear",
    image_pooling: str | None = None,
    text_pooling: str | None = None,
    max_tokens: int = 128,
    vocabulary_size: int = 4000,
    seed: int = 0,
) -> DualEncoder:
    """Make an encoder from presets or local Hugging Face folders, in training mode, on the CPU.

    Args:
        image: A preset (encoders.image.IMAGE_PRESETS) or a folder.
        text: A preset (encoders.text.TEXT_PRESETS) or a folder.
        texts: What to learn a vocabulary from; read only if `text` is a preset.
        image_weights: None, "imagenet" or a .pth file, for efficientnet-lite0.
        size: Pixels of the square input; None for what the image encoder expects.
        fit: How a film becomes square, see Preprocessing.
        dimension: D of the joint space; None for 512, or 128 with the preset "tiny".
        head: "nonlinear", W2 relu(W1 ·) with a hidden layer as wide as its input, as ConVIRT has it; or "linear".
        image_pooling: "mean", "cls" or "pooler", as far as the kind has it; None for its default.
        text_pooling: "max" (the default, as ConVIRT has it), "mean" or "cls", over the real tokens; or "layers", the mean
            of the first, second and last layer, as MedCLIP has it.
        max_tokens: Longer texts are cut; at most what the text encoder has positions for.
        vocabulary_size: Of a learned vocabulary, at most.
        seed: The same seed gives the same weights, whatever was drawn before.

    Raises:
        MedretError: If a preset or folder does not exist or is not usable, or no vocabulary can be learned.
        ValueError: If a setting is out of range, or a text preset comes without texts.
    """
    tokenizer = None
    if str(text) in TEXT_PRESETS:
        if texts is None:
            raise ValueError(f"text preset {text} needs texts to learn a vocabulary from")
        if isinstance(texts, str):
            raise ValueError("texts is one string, expected an iterable of them")
        tokenizer = learn_tokenizer(texts, vocabulary_size)
    image_settings, image_state, expected = choose_image(image, image_weights, image_pooling, size)
    text_settings, text_state, tokenizer = choose_text(text, text_pooling, tokenizer)
    if dimension is None:
        dimension = 128 if str(image) == "tiny" else 512
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image_part = ImageBackbone(image_settings, image_state, str(image))
        text_part = TextBackbone(text_settings, text_state, str(text))
        config = EncoderConfig(
            image=image_settings,
            text=text_settings,
            preprocessing=Preprocessing(**expected, fit=fit),
            dimension=dimension,
            head=head,
            max_tokens=min(max_tokens, text_part.positions),
        )
        return DualEncoder(config, tokenizer, image_part, text_part).train()


def set_batchnorm(encoder: DualEncoder, running: bool) -> None:
    """Let BatchNorm use its running statistics in training too (running=True), or those of the batch."""
    encoder.running_batchnorm = running
    encoder.train(encoder.training)


def make_head(kind: str, width: int, dimension: int) -> nn.Module:
    """The projection of (B, width) features to (B, dimension)."""
    # Without bias, as the paper writes g(.) = W2 relu(W1 .).
    last = nn.Linear(width, dimension, bias=False)
    return last if kind == "linear" else nn.Sequential(nn.Linear(width, width, bias=False), nn.ReLU(), last)


def _encoded(features: Tensor, head: nn.Module) -> Encoded:
    return Encoded(_unit(head(features)), _unit(features))


def _unit(vectors: Tensor) -> Tensor:
    # Half precision is too coarse for a norm; double, in which gradients are checked, stays
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
