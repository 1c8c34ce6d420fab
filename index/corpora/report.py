"""Free-text reports: their sections, the text that an encoder reads, and its sentences."""

import re
from collections.abc import Mapping, Sequence

from index.corpora.headings import section_name

REPORT_SECTIONS = ("findings", "impression")

_HEADING = re.compile(r"\n ([A-Z ()/,-]+):\s")
_BLANK_LINE = "\n \n"

# A list marker: "1.", "2)", "(3)" before a space or a capital, or a bullet before a space. "2.5 cm" is none.
_MARKER = re.compile(r"(?:\(?(\d{1,2})[.)](?=\s|[A-Z_])|[-*•](?=\s))\s*")
_BARE_NUMBER = re.compile(r"\(?\d+[.)]")
_GLUED = re.compile(r"(?<=[a-z]{2})([.?!])(?=[A-Z][a-z]|\d{1,2}\.\s?[A-Z])")  # "effusion.The", "effusion.2. The"
_TITLES = frozenset({"dr.", "drs.", "mr.", "mrs.", "ms.", "prof."})
_ABBREVIATIONS = _TITLES | {"vs.", "e.g.", "i.e.", "cf.", "approx.", "fig.", "st.", "ca.", "incl.", "resp."}
_SHORTEST_LINE = 45  # a line that could have taken the next word within this width was broken on purpose, not wrapped


def section_report(text: str) -> dict[str, str]:
    """Split a MIMIC-CXR report into its sections by the rules of the dataset's official parser.

    A heading is a line of one space, capitals and a colon. Kept as they are: text before the first heading is
    "preamble"; without any heading all is "full report"; a heading on the line right after an empty heading is
    swallowed into that section; without findings and impression, what follows the first blank line of the last
    section is "last_paragraph". Of sections with the same name the last one counts.

    The official tools also hold hand-made exceptions for 54 of the 227,835 studies (character ranges for 31, other
    section names for 23), keyed by study. They are not applied here: those studies get the general rules.

    Args:
        text: A whole report, lines ending in any newline.

    Returns:
        Section name in lower case to stripped text with its line breaks; sections without text are absent.

    Source: MIT-LCP/mimic-cxr, txt/section_parser.py and txt/create_section_files.py.
    """
    spans = _spans(re.sub(r"\r\n?", "\n", text))
    spans = [(name, body) for name, body in spans if name not in REPORT_SECTIONS or body.strip()]
    if spans and not any(name in REPORT_SECTIONS for name, _ in spans):
        name, body = spans[-1]
        head, blank, tail = body.partition(_BLANK_LINE)
        if blank:
            spans[-1:] = [(name, head), ("last_paragraph", tail)]
    return {name: body.strip() for name, body in dict(spans).items() if body.strip()}


def _spans(text: str) -> list[tuple[str, str]]:
    """Return (section, text between this heading and the next) in the order of the report."""
    match = _HEADING.search(text)
    if match is None:
        return [("full report", text)]
    spans = [("preamble", text[: match.start(1)])]
    while match is not None:
        start = match.end()
        newline = text.find("\n", start)
        following = _HEADING.search(text, start if newline < 0 else newline)
        spans.append((section_name(match.group(1)), text[start : following.start() if following else len(text)]))
        match = following
    return spans


def report_text(sections: Mapping[str, str], use: Sequence[str] = REPORT_SECTIONS) -> str:
    """Join the sections of a report that are to be read, whitespace folded to single spaces.

    Args:
        sections: Section name to text, as in `Record.sections`.
        use: The sections wanted, in this order; those that are absent are passed over.

    Returns:
        The text; where the report has neither findings nor impression and one of them was wanted, MIMIC's
        "last_paragraph"; "" where there is nothing.
    """
    text = _folded(" ".join(sections.get(name, "") for name in use))
    has_body = any(sections.get(name, "").strip() for name in REPORT_SECTIONS)
    if not text and not has_body and any(name in REPORT_SECTIONS for name in use):
        return _folded(sections.get("last_paragraph", ""))
    return text


def split_sentences(text: str) -> list[str]:
    """Split report text into sentences, whitespace folded to single spaces.

    List markers ("1.", "2)", "-") at the start of a sentence separate and are left out; nothing else is lost.
    Decimals, times ("9 a.m."), titles ("Dr. J. ___") and spaced decimals ("2. 5 cm") do not end a sentence.
    Blank lines and list items do, and so do lines that were broken well before they were full.

    Args:
        text: One section or several, wrapped or not.

    Returns:
        The sentences in order, none of them empty; [] for text without words.
    """
    return [sentence for paragraph in _paragraphs(text) for sentence in _sentences(paragraph)]


def _paragraphs(text: str) -> list[str]:
    paragraphs: list[list[str]] = [[]]
    previous = last_marker = ""
    for line in map(_folded, text.splitlines()):
        marker = _MARKER.match(line)
        item = marker is not None and _starts_item(marker, last_marker, previous)
        if item or not line or _broken_on_purpose(previous, line):
            paragraphs.append([])
        if marker and item:
            last_marker = marker.group(1) or marker.group().strip()
        paragraphs[-1].append(line)
        previous = line
    return [" ".join(lines) for lines in paragraphs if any(lines)]


def _starts_item(marker: re.Match[str], last_marker: str, previous: str) -> bool:
    """Tell a list item from a number or a dash that a wrapped line happens to begin with."""
    if not previous or previous[-1] in ".?!:;":
        return True
    number = marker.group(1)
    if number is None:
        return marker.group().strip() == last_marker
    return last_marker.isdigit() and int(number) == int(last_marker) + 1


def _broken_on_purpose(previous: str, line: str) -> bool:
    word = line.split(" ", 1)[0]
    capitalised = word[:1].isupper() and word[1:].islower()
    titled = previous.rsplit(" ", 1)[-1].lower() in _TITLES
    return bool(previous) and capitalised and not titled and len(previous) + 1 + len(word) <= _SHORTEST_LINE


def _sentences(paragraph: str) -> list[str]:
    tokens = _GLUED.sub(r"\1 ", paragraph).split()
    sentences: list[str] = []
    current: list[str] = []
    for position, token in enumerate(tokens):
        current.append(token)
        following = tokens[position + 1] if position + 1 < len(tokens) else ""
        if not following or _ends_sentence(current, following):
            sentence = _MARKER.sub("", " ".join(current) + " ", count=1) if _is_marked(current) else " ".join(current)
            sentences.append(sentence.strip())
            current = []
    return [sentence for sentence in sentences if any(letter.isalnum() or letter == "_" for letter in sentence)]


def _is_marked(tokens: Sequence[str]) -> bool:
    return _MARKER.match(" ".join(tokens) + " ") is not None


def _ends_sentence(current: Sequence[str], following: str) -> bool:
    """Say whether the last of the tokens so far ends their sentence, given the token that follows."""
    token = current[-1].rstrip("\"')]}”’")
    word = token.lower().lstrip("\"'([{“‘")
    if token[-1:] not in (".", "?", "!") or len(token) < 2 or word in _ABBREVIATIONS:
        return False
    if _BARE_NUMBER.fullmatch(current[-1]) and (len(current) == 1 or following[0].isdigit()):
        return False  # a list marker, or a decimal typed with a space: "2. 5 cm"
    if re.fullmatch(r"[A-Z]\.", token) and len(current) > 1:
        before = current[-2]
        if before.lower() in _TITLES or re.fullmatch(r"[A-Z]\.", before):
            return False  # an initial: "Dr. J. Smith"
    if following[0].islower():
        return word.rstrip(".?!").isalpha() and len(word.rstrip(".?!")) > 3
    return True


def _folded(text: str) -> str:
    return " ".join(text.split())
