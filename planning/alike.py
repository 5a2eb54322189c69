"""Lists of shared tensors: what torch decides of one holds for all that are like it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from planning.torch_internals import DTensorSpec

Decide = Callable[[Any, Any], Any]
"""A method of torch's ShardingPropagator: finds out how the results of an operation are shared."""


def decided_once(decide: Decide) -> Decide:
    """Return a method that decides once for all elements of lists that are alike.

    An optimizer's operations take lists of all weights, and torch (2.13) decides of each element by itself, for every
    element over all of them: half a minute for a thousand weights, which have thirty shapes.

    Args:
        decide: torch's own method.
    """

    def run(propagator: Any, schema: Any) -> Any:
        by_element = schema.op.name().startswith("aten::_foreach_")
        lists = [arg for arg in schema.args_schema if by_element and _is_list_of_shared(arg)]
        elements = list(zip(*lists, strict=True)) if lists else []
        first = {element: elements.index(element) for element in dict.fromkeys(elements)}
        if len(first) == len(elements):
            return decide(propagator, schema)
        few = dataclasses.replace(
            schema, args_schema=tuple(_taken(arg, first.values(), len(elements)) for arg in schema.args_schema)
        )
        found = decide(propagator, few)
        if found.needs_redistribute:
            return decide(propagator, schema)
        if found.output_spec is None:
            return found
        of_kind = dict(zip(first, found.output_spec, strict=True))
        return dataclasses.replace(found, output_spec=type(found.output_spec)(of_kind[element] for element in elements))

    return run


def _is_list_of_shared(arg: Any) -> bool:
    return isinstance(arg, list | tuple) and len(arg) > 0 and isinstance(arg[0], DTensorSpec)


def _taken(arg: Any, places: Any, length: int) -> Any:
    """Return the elements at some places of a list that has one for each tensor; anything else as it is."""
    if isinstance(arg, list | tuple) and len(arg) == length:
        return type(arg)(arg[place] for place in places)
    return arg
