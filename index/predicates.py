"""Conditions evaluated over one shard in Arrow."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.conditions import NEGATIONS, ORDERS, And, Comparison, Not, Tree, Value

_ORDER = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}


def met(tree: Tree, batch: Any, findings: Sequence[str]) -> Any:
    """Mark the rows of a shard that meet a condition, by the rules of `Comparison`.

    Args:
        tree: The condition, with values of the columns' types.
        batch: The shard's record batch of R rows.
        findings: Those that any shard of the table knows; of one that this shard does not know, its rows have no value.

    Returns:
        (R,) Arrow booleans without nulls.

    Raises:
        ValueError: If a comparison is with no column and no finding.
    """
    if isinstance(tree, Comparison):
        marked = _compared(tree, _held(tree.column, batch, findings))
        return pc.invert(marked) if tree.operator in NEGATIONS else marked
    if isinstance(tree, Not):
        return pc.invert(met(tree.part, batch, findings))
    join, of_none = (pc.and_, True) if isinstance(tree, And) else (pc.or_, False)
    return reduce(join, (met(part, batch, findings) for part in tree.parts), pa.repeat(of_none, batch.num_rows))


def _held(column: str, batch: Any, findings: Sequence[str]) -> Any:
    if column in batch.schema.names:
        return batch.column(column)
    if column not in findings:
        raise ValueError(f"no column {column!r}; there are {', '.join(batch.schema.names)}, and findings {', '.join(findings)}")
    labels = batch.column("labels")
    return labels.field(column) if labels.type.get_field_index(column) >= 0 else pa.nulls(batch.num_rows, pa.int8())


def _compared(one: Comparison, held: Any) -> Any:
    """The rows of which a comparison holds; of a negated one, those of which it does not."""
    if one.operator in ORDERS:
        return pc.fill_null(_ORDER[one.operator](held, pa.scalar(one.values[0], held.type)), False)
    if pa.types.is_list(held.type):
        return _one_of_several(held, one.values)
    marked = pc.is_in(held, value_set=_values(one.values, held.type))
    return pc.or_(marked, pc.is_null(held, nan_is_null=True)) if None in one.values else marked


def _one_of_several(held: Any, values: Sequence[Value]) -> Any:
    """The rows of a list column that hold one of the values; None where they hold none at all."""
    marked = np.zeros(len(held), np.bool_)
    if None in values:
        marked |= pc.fill_null(pc.equal(pc.list_value_length(held), 0), True).to_numpy(zero_copy_only=False)
    wanted = pc.is_in(pc.list_flatten(held), value_set=_values(values, held.type.value_type))
    marked[pc.list_parent_indices(held).filter(wanted).to_numpy(zero_copy_only=False)] = True
    return pa.array(marked)


def _values(values: Sequence[Value], type: Any) -> Any:
    return pa.array([value for value in values if value is not None and is_storable(value)], type)


def is_storable(value: Value) -> bool:
    """Whether a record may have a value: none has text that is no Unicode, as bytes of a command line or a file's name may be."""
    return not isinstance(value, str) or value.encode("utf-8", "replace").decode("utf-8") == value
