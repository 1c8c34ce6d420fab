from collections import Counter

import numpy as np
import pytest

from train.texts import choose_texts, drop_words

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
