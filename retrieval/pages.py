"""HTML pages: their templates, and what they say of options without naming anybody."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from index.conditions import Tree, comparisons
from retrieval.answers import Query
from retrieval.columns import asks_for_ids
from retrieval.filters import parse_condition, parse_where
from retrieval.result_tables import plain_value

_WITHHELD = "a condition on ids"


def render_page(template: str, **content: Any) -> str:
    """Render a template of this package as one page without outside references."""
    environment = Environment(
        loader=PackageLoader("retrieval", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**content, version=version("medret"))


def option_rows(protocol: Mapping[str, Any], with_ids: bool) -> list[tuple[str, str]]:
    """Word the options of a protocol, in its order."""
    return [(key.replace("_", " "), option_words(key, value, with_ids)) for key, value in protocol.items()]


def option_words(option: str, value: Any, with_ids: bool) -> str:
    """Word the value of an option; of conditions on patients, studies and records only that there are some, unless `with_ids`."""
    if not with_ids and value and option == "where":
        value = _withheld(value, parse_where(value))
    if not with_ids and value and option == "only":
        value = [_withheld(text, parse_condition(text).tree) for text in value]
    return plain_value(value)


def note_without_ids(note: str, query: Query) -> str:
    """Return a note of an answer without the conditions of its query that name patients, studies or records."""
    conditions = [(str(one), one.tree) for one in query.only] + ([(query.where, parse_where(query.where))] if query.where else [])
    for text, tree in conditions:
        note = note.replace(text, _withheld(text, tree))
    return note


def _withheld(text: str, tree: Tree) -> str:
    return _WITHHELD if any(map(asks_for_ids, comparisons(tree))) else text
