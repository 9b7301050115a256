"""Rules that act on operations as they run, so that no way of writing a network hides an activation from them.

A ``TorchFunctionMode`` sees every torch operation of a forward: modules that are reused, in-place and functional
activations, ``+=`` of residual blocks, products of gates. An operation has a rule, or is linear in what depends on the
image, or is refused by name; none is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from medsal.attribution.rules.arguments import depending
from medsal.errors import UsageError

LINEAR = frozenset(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear addmm
    add sub rsub neg sum mean cat concat stack split chunk unbind tensor_split
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    batch_norm dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout interpolate upsample pad
    view view_as reshape flatten unflatten squeeze unsqueeze transpose permute movedim moveaxis swapaxes expand
    expand_as contiguous clone to type_as type float double half bfloat16 cpu cuda detach t roll flip repeat tile
    repeat_interleave
    getitem where masked_fill narrow select index_select gather unfold fold pixel_shuffle pixel_unshuffle
    channel_shuffle
    identity requires_grad register_hook retain_grad set get data
    """.split()
)
"""Operations that are linear (or affine) in each tensor that depends on the image, by name."""

SINGLY_LINEAR = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear addmm".split()
)
"""Operations of ``LINEAR`` in which one argument only may depend on the image."""

OPERATORS = {
    **{f"{form}{name}": name for form in "ir" for name in ("add", "mul", "matmul")},
    "isub": "sub",
    "ipow": "pow",
    "truediv": "div",
    "itruediv": "div",
    "rtruediv": "rdiv",
}
"""Python's operators -> operations."""

QUERIES = frozenset(
    """
    size dim ndimension numel is_floating_point is_complex stride is_contiguous get_device len element_size
    zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty new_tensor
    is_nested is_sparse is_inference is_same_size result_type
    """.split()
)


def operation_name(function: Callable[..., Any]) -> str:
    """Name an operation, the same for its function, method, operator and in-place forms.

    Args:
        function: what a torch function mode was handed.

    Returns:
        Its name, e.g. ``add`` for ``torch.add``, ``Tensor.add_``, ``+`` and ``+=``.

    Example:
        >>> {operation_name(f) for f in (torch.add, torch.Tensor.add_, torch.Tensor.__iadd__, torch.Tensor.__radd__)}
        {'add'}
    """
    name: str = getattr(function, "__name__", str(function))
    if not name.startswith("__"):
        return name.strip("_")
    name = name.strip("_")
    return OPERATORS.get(name, name)


def in_place(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a call writes into its first argument.

    Args:
        function: what a torch function mode was handed.
        kwargs: the call's keyword arguments.

    Returns:
        True for ``relu_``, ``+=`` and ``inplace=True``.
    """
    name: str = getattr(function, "__name__", "")
    augmented = name.startswith("__i") and name.strip("_") in OPERATORS
    return augmented or (name.endswith("_") and not name.endswith("__")) or bool(kwargs.get("inplace"))


class Kept:
    """A tensor that is kept as it is now: cloned when, and only when, an operation is about to write into it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()


Backward = Callable[[list[Tensor], Tensor], Sequence[Tensor]]
"""Maps what went into an operation, and what its output is handed back, to what each input is handed back."""


class _Replaced(torch.autograd.Function):
    """An operation whose backward is a rule."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[..., Tensor], backward: Backward, kept: list[Kept], *tensors: Tensor
    ) -> Tensor:
        device = tensors[0].device.type
        ctx.rule = backward, kept
        ctx.precision = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        return compute(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, handed: Tensor) -> tuple[Tensor | None, ...]:
        backward, kept = ctx.rule
        with torch.autocast(*ctx.precision):
            return None, None, None, *backward([k.tensor for k in kept], handed)


class Interception(TorchFunctionMode):
    """See every operation of a forward and replace those that have a rule.

    Args:
        rules: name of an operation -> rule, called with this interception, the operation and its arguments.
        plain: operations that may run as they are.

    Attributes:
        handled: how often each rule was applied.
    """

    def __init__(self, rules: Mapping[str, Rule], plain: frozenset[str] = LINEAR) -> None:
        super().__init__()
        self.rules = rules
        self.plain = plain
        self.handled: Counter[str] = Counter()
        self._kept: dict[int, list[Kept]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        if name in QUERIES:
            return func(*args, **kwargs)
        writes = in_place(func, kwargs)
        rule = self.rules.get(name)
        if rule is None:
            self._refuse(name, args, kwargs)
            result = None
        else:
            result = rule(self, *(_out_of_place(func, args, kwargs) if writes else (func, args, kwargs)))
        if writes:
            self._before_writing(args[0])
        if rule is None:
            return func(*args, **kwargs)
        return args[0].copy_(result) if writes else result

    def keep(self, tensor: Tensor) -> Kept:
        """Keep a tensor's present value for later.

        Args:
            tensor: any tensor of the forward.

        Returns:
            Its value, which later in-place operations do not change.
        """
        kept = Kept(tensor)
        self._kept.setdefault(tensor.untyped_storage().data_ptr(), []).append(kept)
        return kept

    def replace(
        self, name: str, compute: Callable[..., Tensor], tensors: Sequence[Tensor], backward: Backward
    ) -> Tensor:
        """Run an operation with a rule for its backward.

        Args:
            name: the operation, to be counted.
            compute: the operation as a function of the tensors.
            tensors: those that depend on the image.
            backward: the rule.

        Returns:
            What the operation gives.
        """
        self.handled[name] += 1
        result: Tensor = _Replaced.apply(compute, backward, [self.keep(tensor) for tensor in tensors], *tensors)
        return result

    def _before_writing(self, tensor: Tensor) -> None:
        for kept in self._kept.pop(tensor.untyped_storage().data_ptr(), []):
            kept.tensor = kept.tensor.clone()

    def _refuse(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        depend = len(depending(args, kwargs))
        several = name in SINGLY_LINEAR and depend > 1
        if name in self.plain and not several and not _training(name, args, kwargs):
            return
        if depend:
            raise UsageError(
                f"the network uses {name!r}, for which this method has no rule; "
                "choose a method without rules, such as integrated_gradients"
            )


Rule = Callable[[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def _training(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether batch normalisation or dropout runs as in training, though the network is in evaluation."""
    if name != "batch_norm" and "dropout" not in name:
        return False
    position = 5 if name == "batch_norm" else 2
    return bool(kwargs.get("training", args[position] if len(args) > position else "dropout" in name))


def _out_of_place(func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Callable[..., Any], Any, Any]:
    """The call that computes what an in-place call would write."""
    if "inplace" in kwargs:
        return func, args, {**kwargs, "inplace": False}
    name = operation_name(func)
    for home in (torch, nn.functional, Tensor):
        if hasattr(home, name):
            return getattr(home, name), args, kwargs
    raise UsageError(f"the network uses {name!r} in place, for which no out-of-place form is known")


def refuse_scripts(network: nn.Module) -> None:
    """Refuse networks whose operations cannot be seen.

    Args:
        network: any module.

    Raises:
        UsageError: if a part of it is TorchScript.
    """
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(
                f"{name or 'the network'} is TorchScript, inside which rules see nothing; load the Python model"
            )
