"""What a GPU computes in one pass equals what transformers computes in many, forwards and backwards."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config
from transformers.models.qwen2 import modeling_qwen2

from lightning_modules.models.architectures import fused_elementwise as fused
from lightning_modules.models.architectures.transformers_internals import fuse


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "on_gpu", lambda x: True)


def with_gradients(work: Callable[..., Tensor], *operands: Tensor) -> list[Tensor]:
    """Return the result and the gradients of all operands."""
    leaves = [operand.detach().requires_grad_() for operand in operands]
    found = work(*leaves)
    return [found, *torch.autograd.grad(found, leaves, drawn(*found.shape, dtype=found.dtype, seed=9))]


def test_norm_by_hand() -> None:
    """The mean square of (3, 4) is 12.5."""
    normed, scale = fused.norm_forward(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), 0.0)
    assert scale.item() == pytest.approx(12.5**-0.5)
    assert normed.tolist() == [pytest.approx([3 * 12.5**-0.5, 8 * 12.5**-0.5])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_type", [torch.float32, torch.bfloat16])
def test_norm(as_on_a_gpu: None, dtype: torch.dtype, weight_type: torch.dtype) -> None:
    module = modeling_qwen2.Qwen2RMSNorm(16)
    x, weight = drawn(2, 5, 16, dtype=dtype), (1 + 0.1 * drawn(16, seed=1)).to(weight_type)

    def as_they_do(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"weight": weight}, x)

    def as_here(x: Tensor, weight: Tensor) -> Tensor:
        return fused._Norm.apply(x, weight, module.variance_epsilon)

    tolerance = 1e-5 if dtype == weight_type == torch.float32 else 0.03
    for mine, theirs in zip(with_gradients(as_here, x, weight), with_gradients(as_they_do, x, weight), strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.03)])
def test_gate(dtype: torch.dtype, tolerance: float) -> None:
    gate, up = drawn(3, 7, dtype=dtype), drawn(3, 7, dtype=dtype, seed=1)
    own = with_gradients(lambda gate, up: torch.nn.functional.silu(gate) * up, gate, up)
    for mine, theirs in zip(with_gradients(fused.gated, gate, up), own, strict=True):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


def test_rotation_is_theirs_and_its_gradient_turns_back() -> None:
    angles = torch.outer(torch.arange(6), 0.3 ** torch.arange(4)).double()
    cos, sin = (torch.cat([f(angles)] * 2, -1)[None] for f in (torch.cos, torch.sin))
    q, k = drawn(1, 3, 6, 8), drawn(1, 2, 6, 8, seed=1)
    rotary = modeling_qwen2.apply_rotary_pos_emb
    torch.testing.assert_close(fused.rotated(q, k, cos[:, None], sin[:, None]), rotary(q, k, cos, sin))
    mine = with_gradients(lambda q: fused._Rotation.apply(q, cos[:, None], sin[:, None]), q)
    theirs = with_gradients(lambda q: rotary(q, k, cos, sin)[0], q)
    torch.testing.assert_close(mine, theirs)
    assert mine[0].norm().item() == pytest.approx(q.norm().item())


@pytest.mark.parametrize("work", [fused._Norm, fused._Gate, fused._Rotation])
def test_gradients_are_derivatives(work: type[torch.autograd.Function]) -> None:
    """Against finite differences; the norm's are float32 inside."""
    if work is fused._Norm:
        operands, loose = (drawn(2, 8), drawn(8, seed=1)), 1e-2
        torch.autograd.gradcheck(
            lambda x, weight: work.apply(x, weight, 1e-6),
            [o.requires_grad_() for o in operands],
            eps=1e-2,
            atol=loose,
            rtol=loose,
        )
        return
    angles = drawn(1, 1, 3, 2, seed=5)
    cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
    more = (cos, sin) if work is fused._Rotation else (drawn(1, 2, 3, 4, seed=1),)
    x = drawn(1, 2, 3, 4).requires_grad_()
    torch.autograd.gradcheck(lambda x: work.apply(x, *more), x, atol=1e-4, rtol=1e-4, eps=1e-4)


def test_a_whole_layer_and_what_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alike on and off, and on it keeps less for the backward pass; off it is transformers' to the last bit."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    layer = modeling_qwen2.Qwen2DecoderLayer(Qwen2Config(**sizes, num_hidden_layers=1), 0)
    embedding = modeling_qwen2.Qwen2RotaryEmbedding(Qwen2Config(**sizes))
    x = drawn(1, 90, 32, dtype=torch.float32)

    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}

    def run(x: Tensor = x) -> tuple[list[Tensor], int]:
        kept: dict[int, int] = {}

        def keep(value: Tensor) -> Tensor:
            if not isinstance(value, torch.nn.Parameter) and value.untyped_storage().data_ptr() not in weights:
                kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            found = layer(x, position_embeddings=embedding(x, torch.arange(90)[None]))
        layer.zero_grad()
        found.sum().backward()
        return [found.detach(), *(p.grad.clone() for p in layer.parameters())], sum(kept.values())

    theirs, whole = run()
    fuse(layer)
    off, same = run()
    assert whole == same and all(torch.equal(a, b) for a, b in zip(theirs, off, strict=True))
    monkeypatch.setattr(fused, "on_gpu", lambda x: True)
    on, less = run()
    for mine, own in zip(on, theirs, strict=True):
        torch.testing.assert_close(mine, own, atol=1e-5, rtol=1e-4)
    assert less < 0.95 * whole
    layer.bfloat16()
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    _, low = run(x.bfloat16())
    monkeypatch.undo()
    _, high = run(x.bfloat16())
    assert low < 0.95 * high


def test_a_model_that_is_let_go_of_is_gone_at_once() -> None:
    layer = modeling_qwen2.Qwen2DecoderLayer(Qwen2Config(hidden_size=32, num_attention_heads=4, num_hidden_layers=1), 0)
    fuse(layer)
    assert type(layer.mlp).__name__ == "Qwen2MLP" and type(layer.mlp) is not modeling_qwen2.Qwen2MLP
    gone = [weakref.ref(part) for part in (layer.mlp, layer.input_layernorm)]
    gc.disable()
    try:
        del layer
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_without_a_compiler_it_is_eager_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(fused, "rank_zero_info", said.append)

    def no_compiler(work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def fail(*operands: Tensor) -> Tensor:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

        return fail

    monkeypatch.setattr(fused, "compiled", no_compiler)
    fused.compiler_works.cache_clear()
    assert not fused.compiler_works(torch.device("cpu"))
    assert "RuntimeError: Failed to find C compiler." in said[0] and "(gcc)" in said[0]
    fused.compiler_works.cache_clear()


def test_compiled_for_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """One compilation serves lengths that come later; the backend alone is another than on a GPU."""
    graphs: list[object] = []

    def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    work = torch.compile(fused.gate_forward, dynamic=True, backend=counted)
    for rows in (5, 6, 17, 300):
        gate, up = drawn(1, rows, 8), drawn(1, rows, 8, seed=1)
        torch.testing.assert_close(work(gate, up), fused.gate_forward(gate, up))
    assert len(graphs) == 1
