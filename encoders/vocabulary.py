"""Cutting a text encoder's vocabulary to what a kind of text uses: most of a small encoder's weight is its word table."""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from encoders.dual import DualEncoder
from encoders.errors import MedretError
from encoders.text import TextBackbone
from encoders.tokens import Tokenizer


def cut_vocabulary(encoder: DualEncoder, texts: Iterable[str]) -> DualEncoder:
    """A copy of an encoder that knows only the pieces of the given texts, and every single character.

    The vectors of these texts (and of its prompts) stay the same to the last bit, as WordPiece takes the longest
    piece that it knows. Any other text still encodes, its unknown words by characters, so that its vector may differ.

    Args:
        encoder: With a WordPiece tokenizer; it is left as it is.
        texts: What shall stay as it is; read once.

    Raises:
        MedretError: If the tokenizer is no WordPiece, or the text encoder a RoBERTa, which counts positions from an id on.
    """
    tokenizer = encoder.tokenizer
    definition = json.loads(tokenizer.definition)
    found = str(definition["model"].get("type"))
    if found != "WordPiece" or encoder.text.kind == "roberta":
        raise MedretError(
            f"a {encoder.text.kind} text encoder with a {found} tokenizer: only the vocabulary of a WordPiece tokenizer with bert, "
            "distilbert or electra can be cut. Keep it whole, or choose another text encoder."
        )
    asked = [] if encoder.prompts is None else [*encoder.prompts.config.names, encoder.prompts.config.words]
    used = {piece for part in (texts, asked) for text in part for piece in tokenizer.pieces(text)}
    kept = sorted(used | _always_kept(definition, tokenizer))
    numbers = {old: new for new, old in enumerate(kept)}
    shorter = Tokenizer(json.dumps(_renumbered_tokenizer(definition, numbers), ensure_ascii=False))
    cut = copy.deepcopy(encoder)
    _with_words(cut, shorter, kept, numbers)
    return cut


def _always_kept(definition: Mapping[str, Any], tokenizer: Tokenizer) -> set[int]:
    """Ids of the special pieces, and of single characters within and at the beginning of a word."""
    model = definition["model"]
    inner = model["continuing_subword_prefix"]
    characters = {number for piece, number in model["vocab"].items() if len(piece.removeprefix(inner)) == 1 or len(piece) == 1}
    start, end = tokenizer.frame
    added = {token["id"] for token in definition["added_tokens"]}
    return {*characters, *added, *start, *end, tokenizer.padding_id, model["vocab"][model["unk_token"]]}


def _renumbered_tokenizer(definition: Mapping[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    vocabulary = sorted((numbers[old], piece) for piece, old in definition["model"]["vocab"].items() if old in numbers)
    padding = definition.get("padding")
    return {
        **definition,
        "padding": padding and {**padding, "pad_id": numbers[padding["pad_id"]]},
        "added_tokens": [{**token, "id": numbers[token["id"]]} for token in definition["added_tokens"]],
        "post_processor": _renumbered(definition["post_processor"], numbers),
        "model": {**definition["model"], "vocab": {piece: number for number, piece in vocabulary}},
    }


def _renumbered(value: Any, numbers: Mapping[int, int]) -> Any:
    """What follows a text's pieces, of whatever kind: ids stand in lists, as in ["[SEP]", 3] and {"ids": [3]}."""
    if isinstance(value, dict):
        return {key: _renumbered(entry, numbers) for key, entry in value.items()}
    if isinstance(value, list):
        return [numbers[entry] if type(entry) is int else _renumbered(entry, numbers) for entry in value]
    return value


def _with_words(encoder: DualEncoder, tokenizer: Tokenizer, kept: Sequence[int], numbers: Mapping[int, int]) -> None:
    """Give an encoder another tokenizer and, of its word table, the rows that this one numbers."""
    settings, weights, prompts = encoder.config.text, encoder.text.weights(), encoder.prompts
    table = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[table] = weights[table][torch.tensor(kept, device=encoder.device)]
    special = {key: numbers.get(old) for key, old in settings["config"].items() if key.endswith("_token_id")}
    text = {**settings, "config": {**settings["config"], **special, "vocab_size": len(kept)}}
    encoder.config = replace(encoder.config, text=text)
    encoder.tokenizer = tokenizer
    encoder.text = TextBackbone(text, weights).to(weights[table])
    if prompts is not None:
        encoder.add_prompts(prompts.config)
        assert encoder.prompts is not None
        encoder.prompts.load_state_dict(prompts.state_dict())
    encoder.train(encoder.training)
