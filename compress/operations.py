"""What one pass of a model executes, as a GPU's kernels would.

The pass is traced with fake tensors: shapes only, nothing is computed, so a model of any size is
traced in a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autotune.compress.sites import Received, rows_of
from autotune.core.errors import foreign_code
from autotune.core.layers import Site
from autotune.core.operation import Operation

# Views and bookkeeping: no kernel runs.
_FREE = frozenset(
    {
        "view", "_unsafe_view", "t", "transpose", "permute", "unsqueeze", "squeeze", "slice",
        "select", "expand", "detach", "alias", "lift_fresh", "split", "split_with_sizes", "unbind",
        "as_strided", "_reshape_alias", "unfold", "diagonal", "_local_scalar_dense", "empty",
        "empty_like", "sym_size", "is_nonzero",
    }
)  # fmt: skip
_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm"})
# These read no more than they write: rows of a table, parts of a tensor.
_COPIES = frozenset(
    {"embedding", "index", "gather", "cat", "stack", "copy_", "_to_copy", "clone", "index_select"}
)
# Heads of one key: queries beside a longer cache that are no more are heads of one new token.
_MOST_SHARING = 64
Call = Callable[[nn.Module, Mapping[str, Tensor]], Any]


@dataclass(frozen=True, kw_only=True)
class TracedPass:
    """The operations of a pass in their order, and what each site was called with, by name."""

    operations: tuple[Operation, ...]
    calls: Mapping[str, Sequence[Received]]


def trace_operations(
    model: nn.Module,
    sites: Sequence[Site],
    *,
    inputs: Mapping[str, Tensor],
    dtype: torch.dtype,
    causal: bool = False,
    call: Call | None = None,
) -> tuple[Operation, ...]:
    """The operations that `trace_pass` finds."""
    found = trace_pass(model, sites, inputs=inputs, dtype=dtype, causal=causal, call=call)
    return found.operations


def trace_pass(
    model: nn.Module,
    sites: Sequence[Site],
    *,
    inputs: Mapping[str, Tensor],
    dtype: torch.dtype,
    causal: bool = False,
    call: Call | None = None,
) -> TracedPass:
    """One pass on `inputs` in `dtype`, each of `sites` as one operation of the kind "layer".

    `causal`: attention of more than one query looks back only. `call(model, inputs)` runs the pass;
    None calls the model on the named inputs. The weights of the model may be fake tensors already;
    the inputs are then of the same mode.

    Raises:
        ModelError: what the pass computes depends on the values of its inputs.
    """
    recorder = _Recorder(causal, names=[site.name for site in sites])
    handles = []
    for site in sites:
        layer = model.get_submodule(site.name)
        handles.append(layer.register_forward_pre_hook(recorder.entering(site.name)))
        handles.append(layer.register_forward_hook(recorder.leave))
    message = (
        "the operations of the model's pass depend on its data, so they cannot be predicted: "
        "<why>; tune on the device itself"
    )
    try:
        mode = _mode_of(model)
        feeds = {name: _fake(mode, tensor, dtype=dtype) for name, tensor in inputs.items()}
        weights = {
            f"model.{name}": _fake(mode, tensor, dtype=dtype)
            for name, tensor in model.named_parameters()
        }
        with foreign_code(message), torch.no_grad(), mode, recorder:
            functional_call(_Pass(model, call), weights, (feeds,))
    finally:
        for handle in handles:
            handle.remove()
    return TracedPass(operations=tuple(recorder.found), calls=recorder.calls)


def _mode_of(model: nn.Module) -> FakeTensorMode:
    """That of the model's weights where they are fake, else a new one."""
    for parameter in model.parameters():
        if isinstance(parameter, FakeTensor):
            return parameter.fake_mode
    return FakeTensorMode(allow_non_fake_inputs=True)


class _Pass(nn.Module):
    """A pass as a module, whose weights `functional_call` can replace."""

    def __init__(self, model: nn.Module, call: Call | None) -> None:
        super().__init__()
        self.model, self._call = model, call

    def forward(self, feeds: Mapping[str, Tensor]) -> Any:
        return self.model(**feeds) if self._call is None else self._call(self.model, feeds)


def _fake(mode: FakeTensorMode, tensor: Tensor, *, dtype: torch.dtype) -> Tensor:
    fake: Tensor = tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor)
    with mode:
        return fake.to(dtype) if tensor.is_floating_point() else fake


class _Recorder(TorchDispatchMode):
    """Notes every operation; what happens inside a site is one."""

    def __init__(self, causal: bool, *, names: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Operation] = []
        self.calls: dict[str, list[Received]] = {name: [] for name in names}
        self._causal = causal
        self._inside = 0
        # Held, so that no address is used twice; fake tensors take no memory.
        self._storages: dict[int, tuple[int, Any]] = {}

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        """A hook that notes what the site is called with."""

        def enter(_module: nn.Module, args: Any) -> None:
            tensor = args[0]
            place = (self._number(tensor), tensor.storage_offset(), tensor.shape, tensor._version)
            self.calls[name].append(Received(rows=rows_of(tensor), identity=place))
            self._inside += 1

        return enter

    def leave(self, _module: nn.Module, args: Any, output: Any) -> None:
        self._inside -= 1
        if not self._inside:
            self._note("layer", args, out=output)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        namespace, _, rest = str(func).partition(".")
        name = rest.partition(".")[0]
        if not self._inside and namespace == "aten" and name not in _FREE:
            taken = _tensors((args, kwargs))
            if name in _COPIES:
                self._note("memory", (), out=out, copied=taken[0] if taken else None)
            elif "scaled_dot_product" in name:
                self._attention(taken, out)
            elif name in _PRODUCTS:
                self._product(taken, out)
            else:
                self._note("memory", taken, out=out)
        return out

    def _note(self, kind: str, taken: Any, *, out: Any, copied: Any = None, **shape: Any) -> None:
        writes = [(self._number(t), _bytes(t)) for t in _tensors(out)]
        reads = [(self._number(t), _bytes(t)) for t in _tensors(taken)]
        if copied is not None:
            reads = [(self._number(copied), sum(size for _, size in writes))]
        if sum(size for _, size in writes):
            self.found.append(
                Operation(kind=kind, reads=tuple(reads), writes=tuple(writes), **shape)
            )

    def _attention(self, taken: Sequence[Tensor], out: Any) -> None:
        query, key = taken[0], taken[1]
        heads, queries = query.shape[1], query.shape[2]
        if queries != key.shape[2] and queries <= _MOST_SHARING:
            # One new token: its heads that share a key may stand where queries do.
            heads, queries = heads * queries, 1
        self._note(
            "attention",
            taken[:3],
            out=_tensors(out)[:1],
            batch=query.shape[0],
            heads=heads,
            kv_heads=key.shape[1],
            queries=queries,
            keys=key.shape[2],
            head_dim=query.shape[3],
            causal=self._causal and queries > 1,
        )

    def _product(self, taken: Sequence[Tensor], out: Any) -> None:
        left, right = taken[-2], taken[-1]
        count = left.shape[0] if left.dim() == 3 else 1
        self._note(
            "product",
            taken,
            out=out,
            batch=count,
            queries=left.shape[-2],
            keys=right.shape[-1],
            head_dim=left.shape[-1],
        )

    def _number(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        number, _ = self._storages.setdefault(storage._cdata, (len(self._storages), storage))
        return number


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """In memory: an expanded tensor is read once."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return int(count)
