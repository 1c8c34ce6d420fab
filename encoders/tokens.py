"""Words to token ids: WordPiece learned from a corpus, or the tokenizer a pretrained encoder brings."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.errors import MedretError
from encoders.json_object import read_json

if TYPE_CHECKING:  # a text that is encoded without torch needs its tokens too
    from torch import Tensor

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PADDING_NAMES = ("[PAD]", "<pad>")
_WORD = "a"  # any word


class TokenBatch(NamedTuple):
    """A batch of token ids, padded on the right to its longest text."""

    ids: "Tensor"  # (B, T) int64
    mask: "Tensor"  # (B, T) int64, 1 for a real token, 0 for padding
    cut: "Tensor"  # (B,) bool, true where the text was longer than max_tokens


class TokenArrays(NamedTuple):
    """The same as arrays."""

    ids: NDArray[np.int64]  # (B, T)
    mask: NDArray[np.int64]  # (B, T)
    cut: NDArray[np.bool_]  # (B,)


class Tokenizer:
    """A tokenizer of the tokenizers library, together with the exact JSON that defines it.

    The JSON is kept as it was read or learned, so that a fingerprint over it does not change
    with the version of the library that would write it anew.

    Args:
        definition: The content of a tokenizer.json.
        where: What to call its source in messages.

    Raises:
        MedretError: If the definition is no tokenizer, or names no padding token.
    """

    def __init__(self, definition: str, where: str = "tokenizer") -> None:
        self.definition = definition
        self._tokens = _parse(definition, where)
        self.padding_id = _padding_id(self._tokens, where)
        self._tokens.no_padding()
        self._max_tokens: int | None = None

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer.json, or the one in a folder.

        Raises:
            MedretError: If the file is missing or is no tokenizer.
        """
        path = path / "tokenizer.json" if path.is_dir() else path
        return cls(_read(path), str(path))

    @property
    def largest_id(self) -> int:
        """The largest token id; an embedding table needs more rows than this."""
        return int(max(self._tokens.get_vocab(with_added_tokens=True).values()))

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special ids that stand before and after every text."""
        ids, special = self._encode_uncut(_WORD, framed=True)
        first = special.index(0)
        return ids[:first], ids[first + special[first:].index(1) :] if 1 in special[first:] else []

    def pieces(self, text: str, after_word: bool = False) -> list[int]:
        """The ids of a text of any length without special ones, as at the beginning of a text or after another word.

        A byte-level tokenizer, such as RoBERTa's, has one id for each of these; for WordPiece they are the same.
        """
        if not after_word:
            return self._encode_uncut(text)[0]
        before = len(self._encode_uncut(_WORD)[0])
        return self._encode_uncut(f"{_WORD} {text}")[0][before:]

    def _encode_uncut(self, text: str, framed: bool = False) -> tuple[list[int], list[int]]:
        """Ids, and 1 where one is special."""
        self._tokens.no_truncation()
        self._max_tokens = None  # the next batch sets its limit again
        encoding = self._tokens.encode(text, add_special_tokens=framed)
        return list(encoding.ids), list(encoding.special_tokens_mask)

    def __call__(self, texts: Sequence[str], max_tokens: int) -> TokenBatch:
        """Turn texts into tensors of padded ids, see `arrays`; they are on the CPU."""
        import torch

        return TokenBatch(*(torch.from_numpy(part) for part in self.arrays(texts, max_tokens)))

    def arrays(self, texts: Sequence[str], max_tokens: int) -> TokenArrays:
        """Turn texts into padded ids; a text beyond `max_tokens` is cut and says so.

        Args:
            texts: B texts.
            max_tokens: The most tokens a text may have, the special ones included.

        Returns:
            Ids and mask, (B, T) int64, T the longest text's length; cut, (B,) bool.
        """
        if max_tokens != self._max_tokens:
            self._tokens.enable_truncation(max_length=max_tokens)
            self._max_tokens = max_tokens
        valid = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]  # a terminal can hand over bytes that are none
        encodings = self._tokens.encode_batch_fast(valid)
        rows = [encoding.ids for encoding in encodings]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]  # (B, T)
        ids = np.full(mask.shape, self.padding_id, dtype=np.int64)
        ids[mask] = [token for row in rows for token in row]
        cut = np.array([bool(encoding.overflowing) for encoding in encodings], dtype=np.bool_)
        return TokenArrays(ids, mask.astype(np.int64), cut)


def learn_tokenizer(texts: Iterable[str], vocabulary_size: int = 4000) -> Tokenizer:
    """Learn a lower-case WordPiece vocabulary from texts; the same texts give the same one.

    Args:
        texts: Report texts; read once and held in memory.
        vocabulary_size: The most entries, the five special tokens included, but for single characters, which are
            all kept. A small corpus fills fewer.

    Raises:
        MedretError: If the texts hold no word.
    """
    from tokenizers import decoders, models

    texts = list(texts)
    # The trainer numbers characters in the order of a hash that changes with every process, and settles ties between
    # pairs by these numbers. A first round collects the characters, so that the second begins with them in fixed order.
    characters = sorted(_train_wordpiece(texts, 1, SPECIAL_TOKENS).keys() - set(SPECIAL_TOKENS))
    if not characters:
        raise MedretError("no vocabulary can be learned: the texts hold no word. Give reports, or a pretrained text encoder.")
    vocabulary = _train_wordpiece(texts, vocabulary_size, [*SPECIAL_TOKENS, *characters])
    tokens = _wordpiece(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"), lower_case=True)
    tokens.add_special_tokens(list(SPECIAL_TOKENS))
    tokens.decoder = decoders.WordPiece()
    return Tokenizer(_with_template(tokens).to_str())


def _train_wordpiece(texts: Sequence[str], size: int, first: Sequence[str]) -> dict[str, int]:
    """Token → id after training to `size` entries, of which `first` are the first."""
    from tokenizers import models, trainers

    tokens = _wordpiece(models.WordPiece(unk_token="[UNK]"), lower_case=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(first),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokens.train_from_iterator(texts, trainer)
    vocabulary: dict[str, int] = tokens.get_vocab()
    return vocabulary


def load_pretrained_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder: tokenizer.json, or else vocab.txt with tokenizer_config.json.

    A vocab.txt without do_lower_case beside it is read as lower-case, as transformers does.

    Raises:
        MedretError: If neither file is there, or one cannot be read.
    """
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder)
    vocabulary = folder / "vocab.txt"
    if not vocabulary.is_file():
        raise MedretError(f"{folder}: no tokenizer.json and no vocab.txt, expected one of them. Copy the encoder's tokenizer files there.")
    from tokenizers import decoders, models

    beside = folder / "tokenizer_config.json"
    settings = read_json(beside) if beside.is_file() else {}
    lines = _read(vocabulary).removesuffix("\n").split("\n")  # splitlines would break at other signs, which are tokens here
    entries = {token: number for number, token in enumerate(lines)}
    missing = [token for token in SPECIAL_TOKENS[:4] if token not in entries]
    if missing:
        raise MedretError(f"{vocabulary}: the token {missing[0]} is missing, expected a BERT vocabulary. Choose another text encoder.")
    tokens = _wordpiece(
        models.WordPiece(vocab=entries, unk_token="[UNK]"),
        lower_case=bool(settings.get("do_lower_case", True)),
        strip_accents=settings.get("strip_accents"),
        chinese=bool(settings.get("tokenize_chinese_chars", True)),
    )
    tokens.add_special_tokens([token for token in SPECIAL_TOKENS if token in entries])
    tokens.decoder = decoders.WordPiece()
    return Tokenizer(_with_template(tokens).to_str(), str(vocabulary))


def _wordpiece(model: Any, lower_case: bool, strip_accents: bool | None = None, chinese: bool = True) -> Any:
    from tokenizers import Tokenizer as Tokens
    from tokenizers import normalizers, pre_tokenizers

    tokens = Tokens(model)
    tokens.normalizer = normalizers.BertNormalizer(handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lower_case)
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokens


def _with_template(tokens: Any) -> Any:
    from tokenizers import processors

    start, end = tokens.token_to_id("[CLS]"), tokens.token_to_id("[SEP]")
    tokens.post_processor = processors.BertProcessing(("[SEP]", end), ("[CLS]", start))
    return tokens


def _parse(definition: str, where: str) -> Any:
    from tokenizers import Tokenizer as Tokens

    try:
        return Tokens.from_str(definition)
    except Exception as error:  # the library raises bare Exception
        raise MedretError(f"{where}: no readable tokenizer ({str(error)[:120]}). Copy the encoder's tokenizer.json again.") from error


def _padding_id(tokens: Any, where: str) -> int:
    """The id that fills short rows: as the file says, or that of the usual padding token."""
    if tokens.padding is not None:
        return int(tokens.padding["pad_id"])
    for name in _PADDING_NAMES:
        number = tokens.token_to_id(name)
        if number is not None:
            return int(number)
    raise MedretError(f"{where}: no padding token, expected {' or '.join(_PADDING_NAMES)}. Choose another text encoder.")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise MedretError(f"{path}: cannot be read ({reason}). Expected a tokenizer; copy the encoder's files again.") from error
