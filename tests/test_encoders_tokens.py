"""Tokenizers: learned, read from a pretrained encoder's folder, cut and padded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from encoders.errors import MedretError
from encoders.tokens import SPECIAL_TOKENS, Tokenizer, learn_tokenizer, load_pretrained_tokenizer

REPORTS = [
    "The heart is mildly enlarged. No pleural effusion.",
    "Small left pleural effusion; no pneumothorax.",
    "Heart size is normal. The lungs are clear.",
] * 5
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "heart", "is", "large", "##r", "Heart", "é"]


def write_vocabulary(folder: Path, settings: dict | None = None, words: list[str] = WORDS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_learned_tokenizer_frames_known_words_and_ignores_case():
    tokenizer = learn_tokenizer(REPORTS)

    batch = tokenizer(["Heart PLEURAL effusion", "heart pleural effusion"], 64)

    start, end = 2, 3  # special tokens come first, in the order of SPECIAL_TOKENS
    assert SPECIAL_TOKENS[start] == "[CLS]"
    assert batch.ids[0].tolist() == batch.ids[1].tolist()
    assert batch.ids.shape == (2, 5)
    assert batch.ids[0, 0] == start
    assert batch.ids[0, -1] == end
    assert 1 not in batch.ids  # no [UNK]


def test_a_vocabulary_keeps_to_its_size():
    assert learn_tokenizer(REPORTS, vocabulary_size=60).largest_id == 59


def test_short_texts_are_padded_and_masked():
    tokenizer = learn_tokenizer(REPORTS)

    batch = tokenizer(["heart", "the heart is normal"], 64)

    assert batch.mask.tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert batch.ids[0, 3:].tolist() == [tokenizer.padding_id] * 3


def test_a_long_text_is_cut_keeps_its_end_token_and_says_so():
    tokenizer = learn_tokenizer(REPORTS)

    batch = tokenizer(["the heart is normal", "the heart is"], 5)

    assert batch.cut.tolist() == [True, False]
    assert batch.ids[0].tolist() == batch.ids[1].tolist()


def test_the_same_texts_give_the_same_tokenizer_in_another_process():
    script = f"from encoders.tokens import learn_tokenizer; print(learn_tokenizer({REPORTS!r}, 60).definition)"
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }

    assert seen == {learn_tokenizer(REPORTS, 60).definition + "\n"}


def test_saving_and_loading_keeps_every_byte(tmp_path):
    tokenizer = learn_tokenizer(REPORTS)

    (tmp_path / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")

    again = Tokenizer.load(tmp_path)
    assert again.definition == tokenizer.definition
    assert again(REPORTS, 64).ids.tolist() == tokenizer(REPORTS, 64).ids.tolist()


def test_texts_without_a_word_teach_nothing():
    with pytest.raises(MedretError, match="no word"):
        learn_tokenizer(["", "  "])


@pytest.mark.parametrize("settings", [None, {"do_lower_case": True}, {"do_lower_case": False}])
def test_a_vocabulary_file_is_read_as_transformers_reads_it(tmp_path, settings):
    from transformers.models.bert.tokenization_bert import BertTokenizer

    folder = write_vocabulary(tmp_path / "bert", settings)
    lower = True if settings is None else settings["do_lower_case"]
    theirs = BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=lower)
    texts = ["The Heart is larger.", "the HEART is é", "heart"]

    ours = load_pretrained_tokenizer(folder)(texts, 64)

    assert [row[mask.bool()].tolist() for row, mask in zip(ours.ids, ours.mask, strict=True)] == theirs(texts)["input_ids"]


def test_cut_and_padding_stored_in_a_tokenizer_file_do_not_apply(tmp_path):
    """sentence-transformers' files pad to 128 and cut there; here max_tokens decides."""
    tokenizer = learn_tokenizer(REPORTS)
    stored = json.loads(tokenizer.definition)
    stored["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    stored["padding"] = {
        "strategy": {"Fixed": 4},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))

    batch = load_pretrained_tokenizer(tmp_path)(["the heart is normal"], 64)

    assert batch.ids.tolist() == tokenizer(["the heart is normal"], 64).ids.tolist()


def test_a_line_separator_in_a_vocabulary_is_a_token_and_ends_no_line(tmp_path):
    folder = write_vocabulary(tmp_path / "bert", words=[*WORDS[:5], "\u2028", "heart"])

    assert load_pretrained_tokenizer(folder)(["heart"], 8).ids.tolist() == [[2, 6, 3]]


def test_the_padding_id_is_found_by_name(tmp_path):
    folder = write_vocabulary(tmp_path / "bert", words=["[CLS]", "[SEP]", "[UNK]", "[PAD]", "heart"])

    assert load_pretrained_tokenizer(folder).padding_id == 3


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(MedretError, match=r"no tokenizer\.json and no vocab"):
        load_pretrained_tokenizer(tmp_path)


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path):
    with pytest.raises(MedretError, match=r"\[PAD\] is missing"):
        load_pretrained_tokenizer(write_vocabulary(tmp_path / "bert", words=["heart"]))


@pytest.mark.parametrize("content", [b"{}", b"not json", b"\xff\xfe", b'{"model": 1}'])
def test_a_damaged_tokenizer_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)

    with pytest.raises(MedretError, match=r"tokenizer\.json") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
