"""Text backbones: token ids in, one pooled feature vector out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encoders.errors import MedretError
from encoders.huggingface import TEXT_FAMILIES, complete_config, fill_model, first_list, make_model, published_weights, read_folder
from encoders.tokens import Tokenizer, load_pretrained_tokenizer

TEXT_POOLINGS = ("max", "mean", "cls", "layers")
_TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
TEXT_PRESETS: dict[str, tuple[str, Mapping[str, Any]]] = {"tiny": ("bert", _TINY), "bert-base": ("bert", {})}


class TextBackbone(nn.Module):
    """A text network of the BERT family and its pooling.

    Args:
        settings: {"kind", "pooling", "config"}, as a checkpoint stores them.
        weights: The network's weights under their published names; None for random ones.
        where: What to call the weights' source in messages.

    Raises:
        MedretError: If kind or pooling is unknown, or the weights do not fit.
    """

    def __init__(self, settings: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None, where: str = "text encoder") -> None:
        super().__init__()
        self.kind, self.pooling = str(settings["kind"]), str(settings["pooling"])
        if self.kind not in TEXT_FAMILIES:
            raise MedretError(f"{where}: text encoder of kind {self.kind!r}, expected one of {', '.join(TEXT_FAMILIES)}. Update medret.")
        if self.pooling not in TEXT_POOLINGS:
            raise MedretError(f"text pooling is {self.pooling!r}, expected one of {', '.join(TEXT_POOLINGS)}.")
        config = settings["config"]
        self.model: Any = make_model(self.kind, config) if weights is None else fill_model(self.kind, config, weights, where)
        if self.pooling == "layers" and len(self.layers()) < 2:
            raise MedretError(f"{where}: text pooling is 'layers', but there is 1 layer, expected 2 or more. Choose max or mean.")

    @property
    def width(self) -> int:
        """F, of the features."""
        return int(self.model.config.hidden_size)

    @property
    def embedding_width(self) -> int:
        """H, of the word embeddings, which differs from F in some electras."""
        return int(self.model.get_input_embeddings().embedding_dim)

    @property
    def positions(self) -> int:
        """The most tokens a text may have."""
        config = self.model.config
        # RoBERTa counts positions from the padding id on.
        taken = config.pad_token_id + 1 if self.kind == "roberta" else 0
        return int(config.max_position_embeddings - taken)

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding table."""
        return int(self.model.config.vocab_size)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Pooled features over the real tokens, the special ones included.

        Args:
            ids: (B, T) int64.
            mask: (B, T) int64, 1 for a real token; each row has one, and they come first.

        Returns:
            (B, F) float32.
        """
        return self._encode(mask, input_ids=ids)

    def forward_embedded(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """The same from word embeddings, (B, T, H) as `embed` gives them, in place of token ids."""
        return self._encode(mask, inputs_embeds=vectors)

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings alone, before positions and token types are added: (..., T) int64 → (..., T, H)."""
        vectors: Tensor = self.model.get_input_embeddings()(ids)
        return vectors

    def _encode(self, mask: Tensor, **tokens: Tensor) -> Tensor:
        output = self.model(**tokens, attention_mask=mask, output_hidden_states=self.pooling == "layers")
        if self.pooling == "layers":  # MedCLIP, Wang et al., EMNLP 2022; but its released code averages the padding in
            states = output.hidden_states  # the embeddings, then the output of each layer
            hidden: Tensor = (_single(states[1]) + _single(states[2]) + _single(states[-1])) / 3  # (B, T, F)
        else:
            hidden = _single(output.last_hidden_state)
        if self.pooling == "cls":
            return hidden[:, 0]
        real = mask.unsqueeze(-1).bool()  # (B, T, 1)
        if self.pooling == "max":
            return hidden.masked_fill(~real, -torch.inf).amax(dim=1)
        return hidden.masked_fill(~real, 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def weights(self) -> dict[str, Tensor]:
        """The network's state under published names; tensors are shared, not copied."""
        return published_weights(self.model)

    def layers(self) -> list[nn.Module]:
        """The transformer layers, from the embeddings on."""
        return list(first_list(self.model))


def choose_text(
    source: str | Path, pooling: str | None, tokenizer: Tokenizer | None
) -> tuple[dict[str, Any], dict[str, Tensor] | None, Tokenizer]:
    """Turn a preset's name or a local folder into settings, weights and a tokenizer.

    Args:
        source: A preset, or a local Hugging Face folder, which brings its own tokenizer.
        pooling: None for "max", as ConVIRT has it.
        tokenizer: For a preset: the tokenizer whose vocabulary the network shall have.

    Raises:
        MedretError: If there is no such preset or folder, its files are not usable, or its tokenizer exceeds its embeddings.
        ValueError: If a preset is asked for without a tokenizer.
    """
    pooling = pooling or "max"
    preset = TEXT_PRESETS.get(str(source))
    if preset is not None:
        if tokenizer is None:
            raise ValueError(f"text preset {source} needs a tokenizer")
        kind, values = preset
        config = complete_config(kind, {**values, "vocab_size": tokenizer.largest_id + 1, "pad_token_id": tokenizer.padding_id})
        return {"kind": kind, "pooling": pooling, "config": config}, None, tokenizer
    folder = Path(source)
    if not folder.is_dir():
        raise MedretError(f"text encoder {folder}: no preset ({', '.join(TEXT_PRESETS)}) and no folder. Give one of them.")
    kind, config, weights = read_folder(folder, list(TEXT_FAMILIES))
    return {"kind": kind, "pooling": pooling, "config": config}, weights, load_pretrained_tokenizer(folder)


def _single(hidden: Tensor) -> Tensor:
    # Half precision is too coarse for a mean; double, in which gradients are checked, stays
    return hidden.to(torch.promote_types(hidden.dtype, torch.float32))
