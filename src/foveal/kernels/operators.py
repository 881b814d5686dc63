"""Functions that `torch.compile` takes whole, as operators of the namespace `foveal`.

The references work in chunks and keep tables, neither of which a compiler with symbolic sizes can
follow, and their many views make it slow. As an operator a reference runs compiled as it runs
eagerly, and its backward pass computes it again, so that nothing of what it needs is kept. Eager
calls do not come here at all, and `torch.export` sees through to standard operators.
"""

from collections.abc import Callable, Sequence
from typing import ParamSpec

import torch
from torch import Tensor, library

P = ParamSpec("P")

_LIBRARY = library.Library("foveal", "FRAGMENT")


def operator(
    signature: str, result: Callable[..., Tensor]
) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Make a function of tensors and integers an operator wherever it is compiled.

    Args:
        signature: its name and arguments as PyTorch's schemas have them; tensors come first.
        result: an empty tensor of the result's shape and dtype, from the same arguments.
    """

    def decorate(reference: Callable[P, Tensor]) -> Callable[P, Tensor]:
        schema = torch._C.parse_schema(f"{signature} -> Tensor")
        name, arguments = schema.name, signature[signature.index("(") + 1 :]
        tensors = sum(str(argument.type) == "Tensor" for argument in schema.arguments)
        _LIBRARY.define(f"{signature} -> Tensor")
        _LIBRARY.define(f"{name}_backward(Tensor gradient, bool[] needed, {arguments} -> Tensor[]")
        qualified = f"foveal::{name}"
        kind = "CompositeExplicitAutograd"
        _LIBRARY.impl(name, _contiguous(reference), kind)
        _LIBRARY.impl(f"{name}_backward", _recomputing(reference, tensors), kind)
        library.register_fake(qualified, result, lib=_LIBRARY)
        library.register_fake(f"{qualified}_backward", _empty_like, lib=_LIBRARY)
        whole = getattr(torch.ops.foveal, name)
        gradients = getattr(torch.ops.foveal, f"{name}_backward")
        library.register_autograd(
            qualified, _backward(gradients, tensors), setup_context=_keep(tensors), lib=_LIBRARY
        )

        def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
                return whole(*args, **kwargs)
            return reference(*args, **kwargs)

        return call

    return decorate


def _contiguous(reference: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: reference(*args).contiguous()


def _recomputing(reference: Callable[..., Tensor], tensors: int) -> Callable[..., list[Tensor]]:
    """The gradients of all tensors, empty ones where none is needed."""

    def gradients(gradient: Tensor, needed: Sequence[bool], *args: object) -> list[Tensor]:
        with torch.enable_grad():
            leaves = [
                argument.detach().requires_grad_(need)
                for argument, need in zip(args[:tensors], needed, strict=True)
                if isinstance(argument, Tensor)
            ]
            out = reference(*leaves, *args[tensors:])
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(out, wanted, gradient))
        return [
            next(found).contiguous() if leaf.requires_grad else leaf.new_empty(0) for leaf in leaves
        ]

    return gradients


def _empty_like(gradient: Tensor, needed: Sequence[bool], *args: Tensor) -> list[Tensor]:
    return [
        argument.new_empty(argument.shape if need else 0)
        for argument, need in zip(args, needed, strict=False)
    ]


def _keep(tensors: int) -> Callable[..., None]:
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.rest = inputs[tensors:]

    return setup_context


def _backward(gradients: Callable[..., list[Tensor]], tensors: int) -> Callable[..., tuple]:
    def backward(ctx, gradient: Tensor) -> tuple:
        needed = ctx.needs_input_grad
        found = gradients(gradient, needed[:tensors], *ctx.saved_tensors, *ctx.rest)
        return tuple(found[i] if i < tensors and need else None for i, need in enumerate(needed))

    return backward
