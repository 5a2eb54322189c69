"""What is decided once for tensors that are alike is what torch decides of each."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from planning.alike import decided_once
from planning.rehearsal import first_of_ranks
from planning.torch_internals import shardings_decided_by


def test_lists_are_decided_as_torch_does() -> None:
    asked: dict[str, tuple[int, int]] = {}
    sizes: list[int] = []

    def both(original):
        def counted(propagator, schema):
            sizes.append(max((len(arg) for arg in schema.args_schema if isinstance(arg, list | tuple)), default=0))
            return original(propagator, schema)

        def compare(propagator, schema):
            whole = original(propagator, schema)
            sizes.clear()
            found = decided_once(counted)(propagator, schema)
            assert (found.output_spec, found.needs_redistribute) == (whole.output_spec, whole.needs_redistribute)
            asked[schema.op.name()] = (len(schema.args_schema[0]), sizes[0])
            return found

        return compare

    with first_of_ranks(2), shardings_decided_by(both):
        mesh = init_device_mesh("cpu", (2,))
        lists = [
            [DTensor.from_local(torch.ones(shape), mesh, [Shard(0)]) for shape in ((7, 3), (11,), (7, 3), (7, 3))]
            for _ in range(3)
        ]
        torch._foreach_addcdiv_(*lists, [1.0, 2.0, 3.0, 4.0])
        roots = torch._foreach_sqrt(lists[0])
        norms = torch._foreach_norm(lists[1], 2.0)
    found = [root.to_local().flatten()[0].item() ** 2 for root in roots]
    assert found == pytest.approx([2, 3, 4, 5])
    assert len(norms) == 4
    assert {name.partition(".")[0]: two for name, two in asked.items()} == {
        "aten::_foreach_addcdiv_": (4, 2),
        "aten::_foreach_sqrt": (4, 2),
        "aten::_foreach_norm": (4, 2),
    }
