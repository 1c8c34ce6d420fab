"""The text half of an encoder in NumPy over mapped weights: the same vectors without torch, whose import takes seconds.

A new process that asks one thing is done before torch would be there. The tokens of all texts are multiplied together, one after
the other without padding, and each text attends to itself alone.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.activations import gelu, gelu_tanh, silu
from encoders.checkpoint import TOKENIZER, WEIGHTS, read_config
from encoders.errors import UncoveredError
from encoders.mapped_weights import map_safetensors
from encoders.tokens import Tokenizer

Vectors = NDArray[np.float32]

_QUERY, _KEY, _VALUE, _JOINED, _AFTER_ATTENTION, _WIDEN, _NARROW, _AFTER = range(8)
_BERT_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_DISTILBERT_LAYER = (
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
)
_BERT_SETTINGS = ("num_hidden_layers", "num_attention_heads", "hidden_act")
_DISTILBERT_SETTINGS = ("n_layers", "n_heads", "activation")
_FEW_TOKENS, _OUTPUTS_AT_ONCE = 16, 48
_UNIT_LEAST = 1e-12  # what torch divides by at least


class PlainText:
    """Encodes texts as the DualEncoder in a checkpoint does, for bert, roberta, electra and distilbert.

    The weights are views of the file; those stored in half precision are widened. Nothing is compared with the fingerprint, as
    that would read all bytes: whoever calls has compared what says that these are the files that were checked.

    Args:
        folder: A checkpoint.

    Raises:
        UncoveredError: If the network has a part that is not computed here; the message is one clause.
        MedretError: If files are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        config = read_config(folder)["config"]
        self.tokenizer = Tokenizer.load(folder / TOKENIZER)
        self.max_tokens = int(config["max_tokens"])
        self._kind, self._pooling = str(config["text"]["kind"]), str(config["text"]["pooling"])
        network: Mapping[str, Any] = config["text"]["config"]
        self._weights = map_safetensors(folder / WEIGHTS, ("text.", "text_head."))
        layers, heads, activation = _settings(self._kind, network)
        self._heads, self._activation = int(network[heads]), _activation(str(network[activation]))
        self._layers = [self._names(place) for place in range(int(network[layers]))]
        self._epsilon = float(network.get("layer_norm_eps", 1e-12))
        self._padding = int(network.get("pad_token_id") or 0)

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Return the (N, D) joint vectors and the (N, F) features of N texts, float32 of unit L2 norm, each text cut at max_tokens.

        Raises:
            ValueError: If there is no text, or one is empty.
        """
        if not texts or not all(text.strip() for text in texts):
            raise ValueError(f"{len(texts)} texts, of which one is empty or none is there; expected words in each")
        batch = self.tokenizer.arrays(texts, self.max_tokens)
        features = self._features([ids[mask != 0] for ids, mask in zip(batch.ids, batch.mask, strict=True)])
        return _unit(self._project(features)), _unit(features)

    def is_cut(self, texts: Sequence[str]) -> list[bool]:
        """For each text whether it is longer than the encoder reads."""
        cut: list[bool] = self.tokenizer.arrays(texts, self.max_tokens).cut.tolist()
        return cut

    def _features(self, texts: Sequence[NDArray[np.int64]]) -> Vectors:
        """Pool what the layers make of the token ids of N texts, (T,) each, into (N, F)."""
        hidden, states = np.concatenate([self._embed(ids) for ids in texts]), []  # (sum of T, F)
        ends = np.cumsum([len(ids) for ids in texts]).tolist()
        parts = [slice(start, end) for start, end in pairwise([0, *ends])]
        for names in self._layers:
            hidden = self._layer(hidden, parts, names)
            states.append(hidden)
        if self._pooling == "layers":  # as encoders.text has it
            hidden = (states[0] + states[1] + states[-1]) / np.float32(3)
        return np.stack([self._pool(hidden[part]) for part in parts])

    def _pool(self, hidden: Vectors) -> Vectors:
        """Pool the (T, F) vectors of a text's tokens into (F,)."""
        if self._pooling == "cls":
            pooled: Vectors = hidden[0]
        else:
            pooled = hidden.max(axis=0) if self._pooling == "max" else hidden.mean(axis=0)
        return pooled

    def _embed(self, ids: NDArray[np.int64]) -> Vectors:
        places = np.arange(len(ids))
        if self._kind == "roberta":  # counts from the padding id on
            real = ids != self._padding
            places = np.cumsum(real) * real + self._padding
        hidden = self._rows("word_embeddings", ids) + self._rows("position_embeddings", places)  # (T, E)
        if self._kind != "distilbert":
            hidden += self._rows("token_type_embeddings", np.zeros(1, np.int64))
        hidden = self._norm(hidden, "text.embeddings.LayerNorm")
        if "text.embeddings_project.weight" in self._weights:  # some electras
            hidden = self._linear(hidden, "text.embeddings_project")
        return hidden

    def _layer(self, hidden: Vectors, parts: Sequence[slice], names: Sequence[str]) -> Vectors:
        """One layer: attention within each part, and a widened network, each added to its input and normalised."""
        query, key, value = (self._by_heads(self._linear(hidden, names[part])) for part in (_QUERY, _KEY, _VALUE))  # (heads, T, d)
        seen = np.concatenate([_attend(query[:, part], key[:, part], value[:, part]) for part in parts])
        hidden = self._norm(self._linear(seen, names[_JOINED]) + hidden, names[_AFTER_ATTENTION])
        wide = self._activation(self._linear(hidden, names[_WIDEN]))
        return self._norm(self._linear(wide, names[_NARROW]) + hidden, names[_AFTER])

    def _by_heads(self, hidden: Vectors) -> Vectors:
        return hidden.reshape(len(hidden), self._heads, -1).transpose(1, 0, 2)

    def _project(self, features: Vectors) -> Vectors:
        if "text_head.weight" in self._weights:
            return self._linear(features, "text_head")
        return self._linear(np.maximum(self._linear(features, "text_head.0"), 0), "text_head.2")

    def _rows(self, table: str, rows: NDArray[np.int64]) -> Vectors:
        return self._weight(f"text.embeddings.{table}.weight", rows)

    def _linear(self, inputs: Vectors, name: str) -> Vectors:
        outputs = _product(inputs, self._weight(f"{name}.weight"))
        if f"{name}.bias" in self._weights:
            outputs += self._weight(f"{name}.bias")
        return outputs

    def _norm(self, hidden: Vectors, name: str) -> Vectors:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        normed: Vectors = centred / np.sqrt(variance + np.float32(self._epsilon)) * self._weight(f"{name}.weight")
        return normed + self._weight(f"{name}.bias")

    def _weight(self, name: str, rows: NDArray[np.int64] | None = None) -> Vectors:
        if name not in self._weights:
            raise UncoveredError(f"its weights lack {name}")
        weight = self._weights[name]
        taken: Vectors = (weight if rows is None else weight[rows]).astype(np.float32, copy=False)
        return taken

    def _names(self, place: int) -> list[str]:
        """The weights of a layer, as they are published."""
        if self._kind == "distilbert":
            return [f"text.transformer.layer.{place}.{name}" for name in _DISTILBERT_LAYER]
        return [f"text.encoder.layer.{place}.{name}" for name in _BERT_LAYER]


def _product(inputs: Vectors, weight: Vectors) -> Vectors:
    """Multiply (T, I) inputs by (O, I) weights into (T, O).

    For few tokens some outputs at a time: OpenBLAS has kernels for small products, where the processor has AVX-512, which spare it
    the copy of all weights that takes as long as the product.
    """
    if len(inputs) > _FEW_TOKENS or len(weight) % _OUTPUTS_AT_ONCE:
        return np.asarray(inputs @ weight.T)
    parts = np.matmul(weight.reshape(-1, _OUTPUTS_AT_ONCE, weight.shape[1]), inputs.T)  # (O / 48, 48, T)
    return np.asarray(parts.reshape(len(weight), -1).T)


def _attend(query: Vectors, key: Vectors, value: Vectors) -> Vectors:
    """Attention of one text to itself, (heads, T, d) each, to (T, heads x d)."""
    weights = query @ key.transpose(0, 2, 1) * np.float32(query.shape[-1] ** -0.5)  # (heads, T, T)
    weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    seen: Vectors = (weights @ value).transpose(1, 0, 2).reshape(query.shape[1], -1)
    return seen


def _settings(kind: str, network: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a kind calls its number of layers, of heads, and its activation."""
    if kind not in ("bert", "roberta", "electra", "distilbert"):
        raise UncoveredError(f"a text encoder of kind {kind}")
    if network.get("position_embedding_type", "absolute") != "absolute":
        raise UncoveredError(f"{network['position_embedding_type']} positions")
    if network.get("is_decoder") or network.get("add_cross_attention"):
        raise UncoveredError("a decoder")
    return _DISTILBERT_SETTINGS if kind == "distilbert" else _BERT_SETTINGS


def _activation(name: str) -> Callable[[Vectors], Vectors]:
    known: dict[str, Callable[[Vectors], Vectors]] = {
        "gelu": gelu,
        "gelu_new": gelu_tanh,
        "gelu_pytorch_tanh": gelu_tanh,
        "relu": lambda values: np.maximum(values, 0),
        "silu": silu,
        "swish": silu,
        "tanh": np.tanh,
    }
    if name not in known:
        raise UncoveredError(f"activation {name}")
    return known[name]


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Vectors = vectors / np.maximum(norms, np.float32(_UNIT_LEAST))
    return unit
