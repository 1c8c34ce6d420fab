"""Sections by MIMIC-CXR's official rules, and sentences. Every expected section is written by hand."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.corpora.report import report_text, section_report, split_sentences

PLAIN = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___F with cough  // pneumonia?
 
 COMPARISON:  Chest radiograph ___
 
 FINDINGS: 
 
 The lungs are clear.  Heart size is
 normal.
 
 IMPRESSION: 
 
 No acute process.
"""


def test_a_report_falls_into_its_headed_sections():
    assert section_report(PLAIN) == {
        "preamble": "FINAL REPORT",
        "examination": "CHEST (PA AND LAT)",
        "indication": "___F with cough  // pneumonia?",
        "comparison": "Chest radiograph ___",
        "findings": "The lungs are clear.  Heart size is\n normal.",
        "impression": "No acute process.",
    }


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_line_endings_make_no_difference(newline):
    assert section_report(PLAIN.replace("\n", newline)) == section_report(PLAIN)


def test_a_heading_right_after_an_empty_heading_is_swallowed():
    """The newline that would start the second heading is eaten by the first one's ':\\s'."""
    text = " FINAL REPORT\n FINDINGS:\n IMPRESSION: No effusion.\n"

    assert section_report(text) == {"preamble": "FINAL REPORT", "findings": "IMPRESSION: No effusion."}


def test_a_heading_after_an_empty_heading_and_a_space_is_not_swallowed():
    text = " FINAL REPORT\n FINDINGS: \n IMPRESSION: No effusion.\n"

    assert section_report(text) == {"preamble": "FINAL REPORT", "impression": "No effusion."}


def test_of_two_sections_with_one_name_the_last_counts():
    text = " WET READ: ___\n IMPRESSION:  First look.\n ______\n                FINAL REPORT\n IMPRESSION:  Second look.\n"

    assert section_report(text)["impression"] == "Second look."


def test_an_empty_second_impression_does_not_hide_the_first():
    text = " FINAL REPORT\n IMPRESSION:  Small effusion.\n \n CONCLUSION: \n \n NOTIFICATION:  By phone.\n"

    assert section_report(text)["impression"] == "Small effusion."


def test_an_empty_second_comparison_does_hide_the_first():
    """Only empty findings and impressions are removed before the last one is taken."""
    text = " FINAL REPORT\n COMPARISON:  ___.\n \n COMPARISONS: \n \n FINDINGS:  Clear.\n"

    assert "comparison" not in section_report(text)


def test_an_addendum_is_a_section_of_its_own_and_does_not_end_the_report():
    text = (
        "                                 FINAL ADDENDUM\n ADDENDUM:  The tube was moved.\n ______________\n"
        "                                 FINAL REPORT\n INDICATION:  Tube.\n \n FINDINGS:  Tube is high.\n"
    )

    sections = section_report(text)

    assert sections["addendum"] == "The tube was moved.\n ______________\n                                 FINAL REPORT"
    assert sections["findings"] == "Tube is high."


def test_without_findings_and_impression_what_follows_a_blank_line_is_the_last_paragraph():
    text = " FINAL REPORT\n HISTORY:  Cough.\n \n The lungs are clear.\n \n No change.\n"

    assert section_report(text) == {
        "preamble": "FINAL REPORT",
        "history": "Cough.",
        "last_paragraph": "The lungs are clear.\n \n No change.",
    }


def test_without_a_blank_line_there_is_no_last_paragraph():
    assert section_report(" FINAL REPORT\n HISTORY:  Cough. Lungs are clear.\n") == {
        "preamble": "FINAL REPORT",
        "history": "Cough. Lungs are clear.",
    }


def test_a_report_without_headings_is_a_full_report_cut_at_its_first_blank_line():
    assert section_report("Portable chest.") == {"full report": "Portable chest."}
    assert section_report("Portable chest.\n \n Clear.") == {"full report": "Portable chest.", "last_paragraph": "Clear."}


def test_an_empty_text_has_no_sections():
    assert section_report("") == {} == section_report(" \n \n")


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("IMPRESSON", "impression"),
        ("IMPRESSOIN", "impression"),
        ("MPRESSION", "impression"),
        ("CONCLUSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("NDICATION", "impression"),  # surely an accident of the official table, but that is what it says
        ("FINIDNGS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("SINGLE FRONTAL VIEW OF THE ABDOMEN", "findings"),
        ("PORTABLE UPRIGHT FILM", "findings"),
        ("REFERENCE FINDINGS", "findings"),
        ("IDICATION", "indication"),
        ("REASON FOR EXAM", "indication"),
        ("CLINICAL HISTORY", "history"),
        ("COMPARISIONS", "comparison"),
        ("COMPARISON STUDY", "comparison"),
        ("PRELIMINARY IMPRESSION", "impression"),  # contains a main section's name
        ("RECOMMENDATION(S)", "recommendations"),
        ("WETREAD", "wet read"),
        ("TECHNIQUE", "technique"),
        ("NOTE", "note"),  # no rule: its own name
    ],
)
def test_headings_and_their_misspellings_lead_to_the_section_of_the_official_table(heading, section):
    sections = section_report(f" FINAL REPORT\n \n {heading}:  Some words.\n \n TECHNIQUE OF NOTE:  x\n")

    assert sections[section] == "Some words."


def test_lower_case_and_unindented_headings_open_nothing():
    text = " FINAL REPORT\n Findings: a\nIMPRESSION: b\n 2ND READ: c\n"

    assert list(section_report(text)) == ["full report"]


def test_report_text_joins_what_is_asked_for_and_folds_whitespace():
    sections = {"impression": "No\n acute  process.", "findings": "Clear.\n ", "indication": "Cough."}

    assert report_text(sections) == "Clear. No acute process."
    assert report_text(sections, ("impression",)) == "No acute process."
    assert report_text(sections, ("impression", "indication")) == "No acute process. Cough."


def test_the_last_paragraph_stands_in_only_where_there_is_neither_findings_nor_impression():
    assert report_text({"last_paragraph": "Lungs\n clear.", "history": "Cough."}) == "Lungs clear."
    assert report_text({"last_paragraph": "Lungs clear.", "impression": "Normal."}, ("findings",)) == ""
    assert report_text({"last_paragraph": "Lungs clear."}, ("history",)) == ""
    assert report_text({}) == ""


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("The lungs are clear. No effusion.", ["The lungs are clear.", "No effusion."]),
        ("1. Mild edema. 2. No effusion.", ["Mild edema.", "No effusion."]),
        ("1. 8 mm nodule. 2. 1.7 cm mass. 3. Stable.", ["8 mm nodule.", "1.7 cm mass.", "Stable."]),
        ("1. Mild edema\n2. No effusion\n3. Line in place", ["Mild edema", "No effusion", "Line in place"]),
        ("1) Mild edema.\n 2) No effusion\n seen.", ["Mild edema.", "No effusion seen."]),
        ("1.Mild edema.2.No effusion.", ["Mild edema.", "No effusion."]),
        ("- Mild edema\n- No effusion", ["Mild edema", "No effusion"]),
        ("A 2.5 cm mass. It grew by 0.5 cm.", ["A 2.5 cm mass.", "It grew by 0.5 cm."]),
        ("A mass of 2. 5 cm is seen.", ["A mass of 2. 5 cm is seen."]),
        ("Nodule at T12. Stable.", ["Nodule at T12.", "Stable."]),
        ("The nodule measures\n 12. It is stable.", ["The nodule measures 12.", "It is stable."]),
        ("Discussed with Dr. ___ by Dr. J. Smith. Clear.", ["Discussed with Dr. ___ by Dr. J. Smith.", "Clear."]),
        ("Discussed with Dr.\n Smith by phone.", ["Discussed with Dr. Smith by phone."]),
        (
            "Called at 9:30 a.m. on ___. Seen at 4 p.m. The tube is high.",
            ["Called at 9:30 a.m. on ___.", "Seen at 4 p.m.", "The tube is high."],
        ),
        ("Compared with ___. ___ catheter is unchanged.", ["Compared with ___.", "___ catheter is unchanged."]),
        ("Seen on XXXX. XXXX opacity.", ["Seen on XXXX.", "XXXX opacity."]),
        ("No pneumothorax. there is no effusion.", ["No pneumothorax.", "there is no effusion."]),
        ("Left vs. right. Approx. 2 cm.", ["Left vs. right.", "Approx. 2 cm."]),
        ("Is there edema? No. Clear!", ["Is there edema?", "No.", "Clear!"]),
        ("? pneumonia. Clear.", ["? pneumonia.", "Clear."]),
        ("No effusion.The heart is large.", ["No effusion.", "The heart is large."]),
        ("No effusion\nNo edema", ["No effusion", "No edema"]),
        ("No effusion\n \n seen", ["No effusion", "seen"]),
        (
            "There is a moderate left pleural effusion with adjacent\n Swan-Ganz catheter in place.",
            ["There is a moderate left pleural effusion with adjacent Swan-Ganz catheter in place."],
        ),
        ('He said "clear." No edema.', ['He said "clear."', "No edema."]),
        ("", []),
        (" \n . \n - ", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text, sentences):
    assert split_sentences(text) == sentences


SENTENCE = st.lists(st.sampled_from(["heart", "2.5", "cm", "T12", "is", "no", "___", "XXXX", "size", "9:30"]), min_size=1, max_size=6).map(
    lambda words: " ".join(["Lungs", *words, "seen."])
)


@given(st.lists(SENTENCE, max_size=6), st.sampled_from([" ", "  ", "\n ", "\n\n"]))
def test_joined_sentences_are_split_again(sentences, between):
    assert split_sentences(between.join(sentences)) == sentences


@given(st.lists(SENTENCE, max_size=6), st.sampled_from([" ", "\n", "\n \n "]))
def test_numbered_sentences_are_split_and_lose_their_numbers(sentences, between):
    numbered = [f"{number}. {sentence}" for number, sentence in enumerate(sentences, start=1)]

    assert split_sentences(between.join(numbered)) == sentences


PIECE = st.sampled_from(
    ["1.", "2)", "(3)", "-", "*", "Dr.", "a.m.", "2.5", "2.", "5", "cm.", "___", "XXXX.", "No", "or", "?", "\n", "\n \n", "."]
)


@given(st.lists(st.one_of(PIECE, st.text(max_size=5)), max_size=25).map(" ".join))
def test_no_word_is_lost_or_invented(text):
    """Digits may go with list markers; letters and de-identification marks may not."""
    letters = r"[^\W\d_]|_"

    assert re.findall(letters, "".join(split_sentences(text))) == re.findall(letters, text)


@given(st.lists(st.one_of(PIECE, st.text(max_size=5)), max_size=25).map(" ".join))
def test_numbers_within_a_sentence_stay(text):
    text = "".join(letter for letter in text if letter not in "-*•").replace("\n", " ")
    kept = re.findall(r"\d+", " ".join(split_sentences("a " + text)))
    markers = re.findall(r"\d{1,2}(?=[.)])", text)

    assert len(kept) >= len(re.findall(r"\d+", text)) - len(markers)


@given(st.text(st.sampled_from("ab.1 \n_?-A"), max_size=60))
def test_splitting_sentences_again_changes_no_letters(text):
    once = split_sentences(text)

    assert all(sentence == " ".join(sentence.split()) and sentence for sentence in once)
    assert "".join(split_sentences("\n\n".join(once))).replace(" ", "").count("a") == text.count("a")


@given(
    st.lists(st.sampled_from(["\n FINDINGS: ", "\n IMPRESSION:\n", "\n HISTORY: ", "Clear. ", "\n \n ", "x", "\n "]), max_size=14).map(
        "".join
    )
)
def test_sections_are_pieces_of_the_report(text):
    sections = section_report(text)

    assert all(body and body == body.strip() and body in text for body in sections.values())
