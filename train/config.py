"""What a training run is: every setting, from a TOML file or from flags."""

import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from encoders.errors import MedretError
from index.corpora.record import FINDINGS

CHOICES: Mapping[str, tuple[str, ...]] = {
    "objective": ("convirt", "medclip", "umcl"),
    "label_similarity": ("cosine", "dot"),
    "text_draw": ("independent", "alike"),
    "relation": ("equal", "shared", "cosine"),
    "uncertain": ("zeros", "ones", "ignore", "mixed"),
    "learn": ("all", "prompts"),
    "prompts": ("words", "continuous"),
    "prompt_context": ("shared", "class"),
    "prompt_position": ("end", "middle", "front"),
    "fit": ("pad", "crop", "squash"),
    "text_pooling": ("max", "mean", "cls", "layers"),
    "head": ("nonlinear", "linear"),
    "text_sample": ("sentence", "sentences", "report"),
    "views": ("all", "frontal"),
    "optimizer": ("adamw", "adam"),
    "schedule": ("cosine", "plateau"),
    "best_by": ("retrieval", "loss"),
    "batchnorm": ("auto", "live", "running"),
    "precision": ("auto", "fp32", "bf16"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of a training run; the defaults suit a few hundred to a few thousand studies.

    Every field is a key of the TOML file and of `medret train --set KEY=VALUE`. What starts from weights
    learns at `pretrained_learning_rate`, what starts at random at `learning_rate`.
    """

    # Objective
    objective: str = "convirt"
    temperature: float = 0.1  # tau, divides the cosine similarities; medclip, umcl: where the learned one begins
    learn_temperature: bool = True  # medclip and umcl; it stays within 0.01 and 1
    image_to_text_weight: float = 0.75  # convirt: lambda; text-to-image gets the rest
    label_similarity: str = "cosine"  # medclip: of two label vectors; "dot" as in the released code
    text_draw: str = "independent"  # medclip: texts drawn whatever the images are, or "alike": each shares a finding with an image
    soft_target_temperature: float = 1.0  # medclip: divides the label similarities before their softmax
    relation: str = "cosine"  # umcl: labels that are "equal", have one "shared", or by their cosine
    # Labels
    uncertain: str = "zeros"  # what an uncertain label counts as; "ignore": such a study counts as unlabelled
    findings: tuple[str, ...] = ()  # the labels used; none named: all that a corpus has
    prompts: str = "words"  # umcl: labels become texts by worded prompts, or by learned context vectors ("continuous")
    prompt_length: int = 16  # context vectors of a continuous prompt
    prompt_context: str = "shared"  # by all labels, or one of each ("class")
    prompt_position: str = "end"  # of the label's name in its prompt
    prompt_words: str = ""  # whose embeddings the context begins as; none: random
    # Start
    start: str = ""  # a checkpoint or run to begin from, with its encoders, tokenizer and preprocessing
    learn: str = "all"  # "prompts": of the encoder, all but the continuous prompts is frozen
    # Encoder
    image: str = "tiny"  # preset, or a Hugging Face folder with weights
    image_weights: str = ""  # for efficientnet-lite0: "imagenet", or a .pth file
    text: str = "tiny"  # preset, or a Hugging Face folder with weights and tokenizer
    text_pooling: str = "max"  # over the text encoder's token vectors; "layers": mean of several layers, as MedCLIP has it
    dimension: int = 0  # of the joint space; 0: 128 for the image preset "tiny", else 512
    head: str = "nonlinear"
    size: int = 0  # side of the film as encoded, pixels; 0: what the image encoder expects
    fit: str = "pad"  # how a film becomes square
    max_tokens: int = 128  # text beyond is cut
    vocabulary_size: int = 4000  # learned from the corpus where the text encoder brings none
    freeze_image_stages: int = 0  # of a pretrained image encoder, with the stem; 0: none
    freeze_text_layers: int = 0  # of a pretrained text encoder, with the embeddings; 0: none
    batchnorm: str = "auto"  # live | running statistics; auto: running where the image encoder is pretrained
    # Data
    views: str = "all"  # frontal: leave out lateral films
    text_sample: str = "sentence"  # one random sentence of the report each time, several ("sentences"), or all ("report")
    texts_per_image: int = 4  # convirt: texts drawn for an image at each step: the loss is the mean over the draws
    word_dropout: float = 0.2  # share of the words left out of a text, those that say no excepted
    min_tokens: int = 3  # reports and sentences with fewer words and marks are left out
    cache_size: int = 0  # side of the cached squares that are cropped from, pixels; 0: 8/7 of size
    # Augmentation
    crop: tuple[float, float] = (0.8, 1.0)  # share of the area kept
    flip_probability: float = 0.0  # above 0 an encoder unlearns left and right
    rotation: float = 10.0  # degrees, either way
    translation: float = 0.05  # share of the side, either way
    scale: tuple[float, float] = (0.95, 1.05)
    brightness: tuple[float, float] = (0.8, 1.2)  # factor
    contrast: tuple[float, float] = (0.8, 1.2)  # factor
    blur_sigma: tuple[float, float] = (0.0, 0.5)  # pixels
    # Optimisation
    epochs: int = 30  # 0: as many as max_steps takes
    max_steps: int = 0  # 0: as many as the epochs take
    batch_size: int = 32
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    pretrained_learning_rate: float = 1e-4
    weight_decay: float = 0.01
    gradient_clip: float = 1.0  # largest norm of the gradient; 0: unlimited
    schedule: str = "cosine"
    warmup_fraction: float = 0.05  # share of the steps in which the rate rises
    plateau_factor: float = 0.5  # plateau: what the rate is multiplied by
    plateau_patience: int = 5  # plateau: validations without a lower loss before it is
    # Run
    validate_every: int = 0  # steps; 0: once an epoch
    best_by: str = "retrieval"  # what chooses the best checkpoint: the validation's first metric, or its "loss"
    patience: int = 10  # validations without a better one before the run stops; 0: never
    precision: str = "auto"  # bf16 autocast on CUDA, fp32 on a CPU
    chunk_size: int = 0  # rows encoded at once, for large batches on little memory; 0: all
    activation_checkpointing: bool = False  # compute activations twice rather than keep them
    compile: bool = False  # torch.compile: slow to begin, faster after
    tensorboard: bool = False  # write events/ for TensorBoard
    workers: int = 0  # threads that decode films; 0: one a core
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {' or '.join(repr(value) for value in known)}")
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least} or more")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected above 0")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        for name in _RANGES:
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} is [{low}, {high}], expected two numbers of 0 or more, in rising order")
        if self.scale[0] <= 0 or self.rotation > 180:
            raise ValueError(f"scale is {list(self.scale)} and rotation {self.rotation}, expected above 0 and at most 180 degrees")
        if self.crop[0] <= 0 or self.crop[1] > 1:
            raise ValueError(f"crop is {list(self.crop)}, expected shares of the area, above 0 to 1")
        if 0 < self.size < 16 or 0 < self.cache_size < 16:
            raise ValueError(f"size is {self.size} and cache_size {self.cache_size}, expected 16 or more, or 0 for the default")
        if self.epochs == 0 and self.max_steps == 0:
            raise ValueError("epochs and max_steps are both 0, expected one of them above 0")
        self._check_labels_and_prompts()

    def _check_labels_and_prompts(self) -> None:
        for name in self.findings:
            if name not in FINDINGS:
                raise ValueError(f"findings: {name!r} is no label.{nearest_word(name, FINDINGS)} Known are: {', '.join(FINDINGS)}")
        if len(set(self.findings)) < len(self.findings):
            raise ValueError(f"findings: a label is named twice: {', '.join(self.findings)}")
        if self.objective != "convirt" and self.learn_temperature and not 0.01 <= self.temperature <= 1:
            raise ValueError(f"temperature is {self.temperature}, expected 0.01 to 1 where it is learned (or learn_temperature = false)")
        if self.prompts == "continuous" and self.objective != "umcl":
            raise ValueError(f"prompts is 'continuous' and objective {self.objective!r}, expected 'umcl': no other learns prompts")
        if self.learn == "prompts" and not (self.start and self.prompts == "continuous"):
            raise ValueError("learn is 'prompts', expected with it a checkpoint as start, and prompts = 'continuous'")


_ABOVE_ZERO = ("temperature", "soft_target_temperature", "learning_rate", "pretrained_learning_rate", "plateau_factor")
_SHARES = ("image_to_text_weight", "word_dropout", "flip_probability", "translation", "warmup_fraction", "plateau_factor")
_RANGES = ("crop", "scale", "brightness", "contrast", "blur_sigma")
_FROM_ZERO: tuple[str, ...] = ("dimension", "size", "cache_size", "freeze_image_stages", "freeze_text_layers", "chunk_size", "rotation")
_FROM_ZERO += ("epochs", "max_steps", "weight_decay", "gradient_clip", "validate_every", "patience", "workers", "seed")
_AT_LEAST = dict.fromkeys(_FROM_ZERO, 0) | {"max_tokens": 3, "vocabulary_size": 50, "batch_size": 2}
_AT_LEAST |= dict.fromkeys(("prompt_length", "min_tokens", "texts_per_image", "plateau_patience"), 1)


def load_config(path: Path | None = None, **overrides: object) -> TrainConfig:
    """The settings of a TOML file, changed by the overrides; its [[corpus]] tables are `train.sources.load_sources`'s.

    Args:
        path: A TOML file, the name of a ready configuration ("convirt-published"), or None for the defaults.
        overrides: Fields of TrainConfig; None means not given.

    Raises:
        MedretError: If the file cannot be read, a key is unknown, or a value has the wrong type or range.
    """
    config = TrainConfig()
    if path is not None:
        where, values = read_toml(path)
        config = _changed(config, {key: value for key, value in values.items() if key != "corpus"}, where)
    return _changed(config, {key: value for key, value in overrides.items() if value is not None}, "settings given")


def parse_settings(given: Sequence[str]) -> dict[str, object]:
    """Settings as a command line has them, KEY=VALUE, the value as in TOML; a word without quotes is a text.

    Raises:
        MedretError: If one has no "=".
    """
    settings: dict[str, object] = {}
    for entry in given:
        key, equals, value = entry.partition("=")
        if not equals:
            raise MedretError(f"setting {entry!r}: has no '=', expected KEY=VALUE, such as batch_size=64")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = value.strip()
    return settings


def ready_configurations() -> list[str]:
    """Names of the configurations that come with medret."""
    return sorted(entry.name.removesuffix(".toml") for entry in files("train.configs").iterdir() if entry.name.endswith(".toml"))


def dump_config(config: TrainConfig) -> str:
    """The settings as the text of a TOML file that `load_config` reads back to the same."""
    # JSON's strings, numbers, booleans and lists of numbers are TOML's as well
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in asdict(config).items())


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """What to call a TOML file, or a ready configuration, in messages, and what it holds.

    Raises:
        MedretError: If there is no such file, or it is no TOML.
    """
    where, text = _read(path)
    try:
        return where, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MedretError(f"{where}: is no TOML file ({error}). Expected lines such as: batch_size = 64") from error


def _read(path: Path) -> tuple[str, str]:
    name = str(path).removesuffix(".toml")
    if not path.exists() and name in ready_configurations():
        return f"{name}.toml", (files("train.configs") / f"{name}.toml").read_text(encoding="utf-8")
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        ready = ", ".join(ready_configurations())
        raise MedretError(f"{path}: cannot be read ({error}). Expected a TOML file or a ready configuration: {ready}") from error


def _changed(config: TrainConfig, values: Mapping[str, object], where: str) -> TrainConfig:
    types = get_type_hints(TrainConfig)
    known = [field.name for field in fields(TrainConfig)]
    for key in values:
        if key not in types:
            raise MedretError(f"{where}: {key} is no setting.{nearest_word(key, known)} Known are: {', '.join(known)}")
    typed: dict[str, Any] = {key: typed_value(value, types[key], key, where) for key, value in values.items()}
    try:
        return replace(config, **typed)
    except ValueError as error:
        raise MedretError(f"{where}: {error}") from error


def nearest_word(word: str, known: Sequence[str]) -> str:
    """A question for the end of a message, after the known word that is most like this one; empty where none is."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


def typed_value(value: object, kind: Any, key: str, where: str) -> object:
    """The value as its field wants it; an integer serves as a number, nothing else is converted.

    Args:
        value: As TOML has it.
        kind: The field's type: str, int, float, bool, a tuple of numbers, or tuple[str, ...].
        key, where: What to call the field, and its file, in messages.

    Raises:
        MedretError: If the value has another type.
    """
    if kind == tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
            raise MedretError(f'{where}: {key} is {value!r}, expected texts in brackets, such as {key} = ["Edema"]')
        return tuple(value)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if not isinstance(value, (list, tuple)) or len(value) != len(parts):
            raise MedretError(f"{where}: {key} is {value!r}, expected {len(parts)} numbers, such as {key} = [0.5, 1.0]")
        return tuple(typed_value(part, inner, key, where) for part, inner in zip(value, parts, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or (kind is float and not math.isfinite(value)):
        names = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false"}
        raise MedretError(f"{where}: {key} is {value!r}, expected {names[kind]}")
    return value
