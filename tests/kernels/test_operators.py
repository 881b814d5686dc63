"""What compiled networks call whole: registration, and the same result and gradients as eagerly."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, library

from foveal.kernels.aggregated_attention import AttentionTerms, aggregated_attention
from foveal.kernels.biased_attention import biased_attention
from foveal.kernels.deformable_attention import deformable_attention, deformable_samples
from foveal.kernels.neighborhood_attention import neighborhood_attention
from foveal.kernels.position_bias import BiasMLP, LogSpacedBias
from foveal.kernels.window_attention import window_attention


def aggregated(*tensors: Tensor) -> Tensor:
    terms, bias = AttentionTerms(*tensors[5:10]), LogSpacedBias(BiasMLP(*tensors[10:]), 5)
    q, k, v, pooled_k, pooled_v = tensors[:5]
    return aggregated_attention(q, k, v, pooled_k, pooled_v, terms, bias)


# Contract, shapes of the tensors, and the operator's further arguments.
MAP, MLP = (2, 5, 7, 2, 4), ((8, 2), (8,), (2, 8), (2,))
CASES: dict[str, tuple[Callable[..., Tensor], Sequence[tuple[int, ...]], tuple]] = {
    "aggregated_attention": (
        aggregated,
        [MAP] * 3 + [(2, 2, 3, 2, 4)] * 2 + [(2, 4), (2,), (2, 9), (2, 4, 9), (2, 9), *MLP],
        (5, None),
    ),
    "biased_attention": (
        lambda q, k, v, *mlp: biased_attention(q, k, v, LogSpacedBias(BiasMLP(*mlp), 5, 3)),
        [(2, 2, 5, 7, 4)] * 3 + [*MLP],
        (5, 3),
    ),
    "deformable_attention": (
        deformable_attention,
        [(2, 2, 5, 7, 4), (2, 2, 6, 4), (2, 2, 6, 4), (2, 2, 6, 2), (2, 9, 13), (5,), (7,)],
        (),
    ),
    "deformable_samples": (deformable_samples, [(2, 4, 5, 7), (2, 2, 3, 2, 2)], ()),
    "neighborhood_attention": (
        lambda q, k, v, bias: neighborhood_attention(q, k, v, bias, (5, 7), 3),
        [MAP] * 3 + [(2, 5, 5)],
        ((5, 7), 3),
    ),
    "window_attention": (
        lambda qkv, bias: window_attention(qkv, bias, (5, 7), 4, 2),
        [(2, 8, 8, 3, 2, 4), (2, 16, 16)],
        ((5, 7), 4, 2),
    ),
}


def drawn(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("name", list(CASES))
def test_registration(name: str) -> None:
    _, shapes, rest = CASES[name]
    library.opcheck(getattr(torch.ops.foveal, name).default, (*drawn(shapes), *rest))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_compiled_gradients(name: str, dynamic: bool) -> None:
    contract, shapes, _ = CASES[name]
    leaves = drawn(shapes)
    leaves[1].requires_grad_(False)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    torch._dynamo.reset()
    compiled = torch.compile(contract, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    out, expected = compiled(*leaves), contract(*leaves)
    torch.testing.assert_close(out, expected)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    found, exact = (torch.autograd.grad((y * weights).sum(), wanted) for y in (out, expected))
    torch.testing.assert_close(found, exact)


def test_compiled_graph_calls_the_operator() -> None:
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    contract, shapes, _ = CASES["window_attention"]
    torch._dynamo.reset()
    torch.compile(contract, backend=keep)(*drawn(shapes))
    assert torch.ops.foveal.window_attention in {node.target for node in graphs[0].graph.nodes}
