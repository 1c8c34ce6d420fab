from collections import Counter

import numpy as np
import pytest

from index.corpora.prompts import FINDING_PROMPTS, prompts_for
from train.texts import NEGATIONS, choose_texts, draw_texts, drop_words, prompt_texts

REPORT = ("The lungs are clear.", "No effusion.", "The heart is large.")


def test_each_sentence_of_a_report_is_drawn_as_often_as_any_other():
    counts = Counter(choose_texts([REPORT] * 6000, "sentence", np.random.default_rng(0)))

    assert set(counts) == set(REPORT)
    chi_squared = sum((count - 2000) ** 2 / 2000 for count in counts.values())
    assert chi_squared < 13.8  # 99.9 % quantile at 2 degrees of freedom


def test_several_sentences_keep_their_order_and_every_number_of_them_occurs():
    texts = set(choose_texts([REPORT] * 500, "sentences", np.random.default_rng(0)))

    first, second, third = REPORT
    assert texts == {first, second, third, f"{first} {second}", f"{first} {third}", f"{second} {third}", " ".join(REPORT)}


def test_a_whole_report_is_all_its_sentences():
    assert choose_texts([REPORT, REPORT[:1]], "report", np.random.default_rng(0)) == [" ".join(REPORT), REPORT[0]]


def test_an_unknown_unit_of_text_is_refused():
    with pytest.raises(ValueError, match="paragraph"):
        choose_texts([REPORT], "paragraph", np.random.default_rng(0))


def test_each_word_is_dropped_as_often_as_asked_but_never_one_that_says_no():
    texts = drop_words(
        ["Small left pleural effusion."] * 5000 + ["There is No pneumothorax, not even a small one."] * 5000, 0.2, np.random.default_rng(0)
    )

    kept = Counter(word for text in texts[:5000] for word in text.split())
    assert all(abs(count - 4000) < 150 for count in kept.values())
    assert len(kept) == 4
    assert all({"No", "not"} <= set(text.split()) for text in texts[5000:])


def test_a_text_never_loses_its_last_word_and_a_share_of_0_changes_nothing():
    assert set(drop_words(["Cardiomegaly."] * 100, 0.9, np.random.default_rng(0))) == {"Cardiomegaly."}
    assert drop_words(list(REPORT), 0.0, np.random.default_rng(0)) == list(REPORT)


def report(number: int) -> tuple[str, ...]:
    """A report of 1 to 9 sentences of 1 to 12 words, some of which say no."""
    rng = np.random.default_rng(number)
    words = ["Small", "left", "pleural", "effusion.", "No", "not", "heart", "clear.", "large"]
    return tuple(" ".join(rng.choice(words, rng.integers(1, 13)).tolist()) for _ in range(rng.integers(1, 10)))


def plain_choice(reports: list[tuple[str, ...]], unit: str, rng: np.random.Generator) -> list[str]:
    """Report by report."""
    texts = []
    for sentences in reports:
        count = {"sentence": 1, "report": len(sentences)}.get(unit) or int(rng.integers(1, len(sentences) + 1))
        texts.append(" ".join(sentences[place] for place in sorted(rng.choice(len(sentences), count, replace=False).tolist())))
    return texts


def plain_drop(texts: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Text by text."""
    shortened = []
    for text in texts:
        words = text.split()
        dropped = rng.random(len(words)) < share
        kept = [word for word, drop in zip(words, dropped, strict=True) if not drop or word.strip(".,;:").lower() in NEGATIONS]
        shortened.append(" ".join(kept or words))
    return shortened


@pytest.mark.parametrize("unit", ["sentence", "sentences", "report"])
def test_texts_are_chosen_as_one_by_one(unit):
    reports = [report(number) for number in range(300)]

    assert choose_texts(reports, unit, np.random.default_rng(1)) == plain_choice(reports, unit, np.random.default_rng(1))
    assert choose_texts([], unit, np.random.default_rng(1)) == []


@pytest.mark.parametrize("share", [0.2, 0.95])
def test_words_are_dropped_as_text_by_text(share):
    texts = [" ".join(report(number)) for number in range(300)]

    assert drop_words(texts, share, np.random.default_rng(1)) == plain_drop(texts, share, np.random.default_rng(1))


def test_several_draws_are_all_reports_once_and_then_all_again():
    reports = [(f"{number} one.", f"{number} two.") for number in range(50)]

    texts = draw_texts(reports, "sentence", 3, 0.0, np.random.default_rng(0), np.random.default_rng(0))

    assert [text.split()[0] for text in texts] == [str(number) for number in range(50)] * 3
    assert texts[:50] != texts[50:100]


def test_a_label_set_becomes_a_prompt_of_each_of_its_findings_in_any_order():
    findings = ("Edema", "hiatal hernia", "Fracture")
    labels = np.array([[1, 0, 1], [0, 1, 0]] * 300, dtype=np.float32)

    texts = prompt_texts(labels, findings, np.random.default_rng(0))

    pairs = {(first, second) for first in FINDING_PROMPTS["Edema"] for second in FINDING_PROMPTS["Fracture"]}
    assert set(texts[::2]) == {" ".join(pair) for pair in pairs} | {" ".join(pair[::-1]) for pair in pairs}
    counts = Counter(texts[1::2])
    assert set(counts) == set(prompts_for("hiatal hernia"))
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 13.8  # 99.9 % quantile at 2 degrees of freedom


def test_no_label_is_no_text():
    assert prompt_texts(np.zeros((0, 3), dtype=np.float32), ("a", "b", "c"), np.random.default_rng(0)) == []
    with pytest.raises(ValueError, match="without a positive finding"):
        prompt_texts(np.array([[1.0, 0], [0, 0]], dtype=np.float32), ("a", "b"), np.random.default_rng(0))
