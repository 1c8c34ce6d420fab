"""Which report headings mean the same section: the naming rules of MIMIC-CXR's official section parser.

The equivalences are those of the published rules (MIT-LCP/mimic-cxr, `txt/section_parser.py`; MIT licence,
Copyright MIT Laboratory for Computational Physiology), arranged anew by the section they lead to.
"""

import re

_SPELLINGS = {  # section -> headings that mean it, exactly as written (lower case)
    "addendum": ("addendum",),
    "comment": ("comment",),
    "comparison": (
        "comparison",
        "comparisons",
        "reference exam",
        "comparison exam",
        "comparison film",
        "comparision",
        "comparsion",
        "comparrison",
        "comparisions",
    ),
    "date": ("date",),
    "examination": ("examination", "exam", "type of examination"),
    "findings": (
        "findings",
        "chest, two views",
        "finding",
        "findins",
        "findindgs",
        "findgings",
        "findngs",
        "findnings",
        "finidngs",
        "reference findings",
    ),
    "history": ("history", "clinical history", "clinical information", "patient history", "pfi"),
    "impression": (
        "impression",
        "conclusion",
        "findings and impression",
        "findings/impression",
        "findings/ impression",
        "ndication",  # surely meant for 'indication', but this is what the official sections hold
        "impresson",
        "imprression",
        "imoression",
        "impressoin",
        "imprssion",
        "impresion",
        "imperssion",
        "mpression",
        "impession",
    ),
    "indication": ("indication", "reason for examination", "reason for exam", "clinical indication", "idication"),
    "notification": ("notification",),
    "preamble": ("preamble",),
    "recommendations": ("recommendations", "recommendation", "recommendation(s)"),
    "technique": ("technique",),
    "wet read": ("wet read", "wetread"),
}
_SECTION_OF = {heading: section for section, headings in _SPELLINGS.items() for heading in headings}

# A heading that is in no list above means the first of these that it contains.
_CONTAINED = ("impression", "findings", "history", "comparison", "addendum")

# Otherwise a heading that names a projection is the title of the whole study: findings.
_STUDY_TITLE = re.compile(
    "chest|portable|ribs|bone window|two views|one view"
    "|(pa|ap|frontal|lateral) view"
    "|frontal and|frontal upright|frontal semi-upright"
    "|pa and lat|ap and lateral|lateral and (pa|ap)"
)


def section_name(heading: str) -> str:
    """Return the section that a heading opens, in lower case; a heading without a rule is its own name.

    Source: MIT-LCP/mimic-cxr, txt/section_parser.py.
    """
    heading = heading.lower().strip()
    if heading in _SECTION_OF:
        return _SECTION_OF[heading]
    for section in _CONTAINED:
        if section in heading:
            return section
    return "findings" if _STUDY_TITLE.search(heading) else heading
