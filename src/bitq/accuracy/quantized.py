"""Formats applied to a network as it is: its layers compute on block floating point, its code stays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from math import frexp
from threading import get_ident
from typing import Any, NamedTuple, Protocol, SupportsIndex

import torch
from torch import Tensor, nn

from bitq.accuracy import straight
from bitq.accuracy.kinds import Kind, kind_of, reason_against
from bitq.accuracy.learned import quantized_within, weight_clipped, weight_within
from bitq.accuracy.ranges import Samples
from bitq.accuracy.storing import AsStored, multiply_in_children, passing, root, strayed
from bitq.accuracy.watching import watching
from bitq.calls import Call, Points
from bitq.errors import BitqError
from bitq.formats import Format, MaxAbs, Ranges, Span, TensorFormats, TensorName
from bitq.formats.scales import SharedExponent
from bitq.multiplying import Computed, remove
from bitq.numerics import exponent_bias_for, quantize
from bitq.numerics.ops import direct
from bitq.numerics.recipe import magnitude
from bitq.private_torch import forward_pre_hooks, in_backward, own_parameters
from bitq.running import calls_of

UNKNOWN = Ranges()


class Planned(Protocol):
    """What `apply` asks of a plan; one that also has `points()` says where layers store their outputs."""

    def formats(self) -> Mapping[str, TensorFormats]:
        """By module path."""

    def ranges(self) -> Mapping[str, Ranges]:
        """By module path."""


def apply(
    model: nn.Module,
    formats: Mapping[str, TensorFormats] | Planned,
    ranges: Mapping[str, Ranges | MaxAbs] | None = None,
    *,
    max_abs: Mapping[str, MaxAbs] | None = None,
    points: Points | None = None,
    products: Mapping[str, Computed] | None = None,
) -> None:
    """Makes the named modules of `model` compute on quantized input, weight and output.

    Each becomes, in place, an instance of a subclass of its class: parameters, buffers, hooks, names and state_dict
    stay, and optimizers go on with the float weight. Blocks run along the channels (features) of activations, and along
    the input channels of one output channel in weights, kernel window included and groups apart. Modules that are
    quantized already change their formats.

    `module.weight` is the float parameter, to read and to write. The module's own forward computes with its quantized
    form, made afresh in every pass, so that no change of the weight is missed, however it was made;
    `weight_in_use(module)` gives it to others.

    Formats act where the network calls the module. Torch's fused `TransformerEncoderLayer`, which in evaluation reads
    the weights of its layers instead, takes its plain path once one of them has formats. A network that computes with a
    module's weight itself is told of within `in_formats`, as by the search.

    A training step keeps no more for backward than the float network does: `bitq.accuracy.straight` says how.

    With `points`, the output that is quantized is what the layer stores: the result of the activation function or sum
    behind it. All that the network goes on to compute from is that, and a layer that reads it takes it as it is. For
    this, `model` becomes an instance of a subclass of its class, too. A module that is called outside of a pass through
    `model` quantizes its own output.

    Args:
        model: the network; is changed.
        formats: by module path; or a plan, which brings its calibration and points, too.
        ranges: by module path what `observing` recorded, from which activations get what a whole tensor shares: an
            exponent bias, a scale. A module it does not name keeps what it had, or else each activation has its own.
        max_abs: in place of `ranges`, largest magnitudes alone.
        points: where what layers store comes out, as `bitq.tracing.record` finds it in this network; none: each stores
            its own result. By default as before.
        products: by path of the products that no module of their own computes, what they compute, as
            `bitq.tracing.record` finds them: each becomes a child of its module, which formats can be given to. By
            default those of a plan.

    Raises:
        BitqError: a path that names no module or one that takes no formats (`bitq.accuracy.kinds`), or two paths of one
            module with unlike formats.
    """
    if not isinstance(formats, Mapping):
        ranges = formats.ranges() if ranges is None and max_abs is None else ranges
        points = getattr(formats, "points", dict)() if points is None else points
        products = getattr(formats, "products", dict)() if products is None else products
        formats = formats.formats()
    if products:
        multiply_in_children(model, products)
    known = {**(max_abs or {}), **(ranges or {})}
    for name, module, wanted in _named(model, formats):
        if not isinstance(module, _Quantized):
            module.__class__ = _quantized_class(type(module))  # type: ignore[arg-type]
            module._bitq = _State(name)
            module.register_forward_pre_hook(_called)
        module._bitq.change(wanted, Ranges.of(known[name]) if name in known else None)
    if points is not None:
        _store_at(model, {call: name for name, calls in points.items() if name in formats for call in calls})


def set_formats(model: nn.Module, formats: Mapping[str, TensorFormats]) -> None:
    """Changes the formats of modules to which `apply` gave some; cheap enough for every step of a training.

    Raises:
        BitqError: as `apply` does, and for a module that is not quantized.
    """
    for name, module, wanted in _named(model, formats):
        if not isinstance(module, _Quantized):
            raise BitqError(f"module {name!r} is not quantized; apply formats to it first")
        module._bitq.change(wanted)


def restore(model: nn.Module) -> None:
    """Makes every quantized module of `model` what it was before `apply`; products are no children any more."""
    for module in model.modules():
        if isinstance(module, _Quantized):
            del module._bitq
            hooks = forward_pre_hooks(module)
            for number in [key for key, hook in hooks.items() if hook is _called]:
                del hooks[number]
            module.__class__ = type(module).__bases__[1]
    remove(model)
    _store_at(model, {})


def is_quantized(module: nn.Module) -> bool:
    """Whether `apply` gave a module formats."""
    return isinstance(module, _Quantized)


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Paths and modules to which `apply` gave formats, each module once."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, _Quantized))


def calibration(model: nn.Module) -> dict[str, Ranges]:
    """By path of each module with formats the ranges that its activations' formats are made for."""
    return {name: module._bitq.ranges for name, module in quantized_layers(model)}


def weight_in_use(module: nn.Module, given: Tensor | None = None) -> Tensor:
    """The weight as a module computes with it: quantized, if `apply` gave it a format, and then a tensor of its own.

    Its gradient passes straight through to `module.weight`, or to the one that is given, of a product of two
    activations.
    """
    weight: Tensor = module.weight if given is None else given  # type: ignore[assignment]
    fmt = module._bitq.formats.weight if isinstance(module, _Quantized) else None
    if fmt is None:
        return weight
    state: _State = module._bitq  # type: ignore[assignment]
    if "weight" in state.reaches:
        return weight_within(module, weight, state.reaches["weight"], fmt)
    if state.held is not None and given is None:
        return state.held(module, weight, fmt)
    clipped = weight_clipped(module, weight, fmt) if state.clipping else weight
    return quantized_weight(module, clipped, fmt, state.weight)


def in_formats(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, a network that does not compute in the formats `apply` gave it is told of.

    Raises:
        BitqError: what `bitq.accuracy.watching` notices of a module with a format.
    """
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _Quantized) and module._bitq.formats != TensorFormats()
    ]
    return watching(model, names, "measured") if names else nullcontext()


@contextmanager
def observing(
    model: nn.Module, names: Iterable[str], samples: Samples | None = None, points: Points | None = None
) -> Iterator[dict[str, Ranges]]:
    """Records between which finite numbers, 0 among them, inputs and outputs of the named modules lie in all forward
    passes inside.

    Args:
        model: the float network.
        names: paths of the modules.
        samples: take in some of the inputs and outputs.
        points: where what they store comes out, as for `apply`; else each module's own output is recorded.

    Yields:
        By name; a module that has not run yet is missing. NaN and infinities are passed over.

    Raises:
        BitqError: a path that names no module or one that takes no formats; at the end, if something ran, a module that
            never did; or a product with such a module's weight past it.
    """
    seen: dict[str, Ranges] = {}
    at = {call: name for name, calls in (points or {}).items() for call in calls}

    def record(name: str, end: TensorName, x: Tensor) -> None:
        known = seen.get(name, UNKNOWN)
        seen[name] = known._replace(**{end: _widened(getattr(known, end), _dense(x))})
        if samples is not None:
            samples.add(name, end, _dense(x), kind_of(modules[name]).channel_axis(modules[name]))

    def store(call: Call, result: Any) -> Any:
        if (name := at.get(call)) in modules:
            record(name, "output", result)
        return result

    def after(name: str, args: Any, kwargs: Any, y: Tensor) -> None:
        record(name, "input", args[0] if args else kwargs["input"])
        if kind_of(modules[name]).of_activations:
            record(name, "weight", args[1])
        if name not in elsewhere:
            record(name, "output", y)

    modules, elsewhere = {name: _layer(model, name) for name in names}, set(at.values())
    handles = [
        module.register_forward_hook(
            lambda _, args, kwargs, y, name=name: after(name, args, kwargs, y), with_kwargs=True
        )
        for name, module in modules.items()
    ]
    try:
        with watching(model, modules, "calibrated"), calls_of(model, store) if at else nullcontext():
            yield seen
    finally:
        for handle in handles:
            handle.remove()
    lost = next((name for name, own in seen.items() if own.output is None), None)
    if lost is not None:
        raise strayed(lost)


class Shared(NamedTuple):
    """What calibration fixes of what a whole activation shares, in whole numbers.

    Torch.compile takes a module's whole numbers for constants, but floats that differ between layers for variables.

    Attributes:
        exponent_bias: of a format `eN`.
        low, high: of other formats, the range as (k, e), which stands for k·2^e.
    """

    exponent_bias: int | None = None
    low: tuple[int, int] | None = None
    high: tuple[int, int] | None = None

    @classmethod
    def of(cls, fmt: Format | None, own: Span | None) -> Shared:
        """Nothing, if nothing is known or was but zeros, which gives no scale, or if the format shares nothing."""
        if fmt is None or own is None or not fmt.needs_range:
            return cls()
        if isinstance(fmt.scale, SharedExponent):
            return cls(exponent_bias_for(magnitude(own, fmt), fmt))
        return cls(None, *map(_exact, own)) if any(own) else cls()

    @property
    def tensor_range(self) -> Span | None:
        """As `quantize` takes it."""
        if self.low is None or self.high is None:
            return None
        return self.low[0] * 2.0 ** self.low[1], self.high[0] * 2.0 ** self.high[1]


def _exact(value: float) -> tuple[int, int]:
    """A float32 as (k, e): k·2^e."""
    fraction, exponent = frexp(value)
    return int(fraction * 2**24), exponent - 24


class _State:
    """What a quantized layer computes with; what its activations share is made once, here."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.formats = TensorFormats()
        self.input = self.weight = self.output = Shared()
        self.stored_elsewhere = False
        """Whether its output is quantized where it is stored, not where it comes out."""
        self._warned = self._passed = False
        self.reaches: dict[TensorName, Tensor] = {}
        """While they are learned, the logarithms of ranges; see `bitq.accuracy.learned`."""
        self.clipping = False
        """Whether the weight is clipped afresh in every pass."""
        self.held: Callable[[nn.Module, Tensor, Format], Tensor] | None = None
        """While it keeps scales for some steps, what makes the quantized weight; see `bitq.accuracy.held`."""
        self.lent: dict[int, Tensor] = {}
        """The quantized weight while a forward of the layer's own runs, by thread."""
        self.ranges = UNKNOWN

    def change(self, formats: TensorFormats, ranges: Ranges | None = None) -> None:
        """Sets formats and, if given, the calibration of activations."""
        if ranges is not None:
            self.ranges = ranges
        self.reaches, self.clipping = {}, False
        self.formats = formats
        self.input = Shared.of(formats.input, self.ranges.input)
        self.weight = Shared.of(formats.weight, self.ranges.weight)
        self.output = Shared.of(formats.output, self.ranges.output)

    def check_recomputed(self) -> None:
        """Refuse a pass through the layer alone in backward, where one through the network says what is stored."""
        if passing.due is not None:
            self._passed = True
        elif self._passed and not torch.compiler.is_compiling() and in_backward():
            raise BitqError(
                f"the network computes module {self.name!r} anew in backward (torch.utils.checkpoint), where what it "
                "stores and its products with formats are not known; let it keep its activations"
            )

    def check_sign(self, x: Tensor, tensor: TensorName) -> None:
        """Tell once of a negative number in what is stored without a sign."""
        if not self._warned and x.numel() and bool(x.detach().amin() < 0):
            self._warned = True
            warnings.warn(
                f"the {tensor} of module {self.name!r} has a negative number, which {getattr(self.formats, tensor)} "
                "takes for 0; calibration met none: calibrate with data that have some, or give a format with a sign",
                stacklevel=2,
            )


class _Quantized(nn.Module):
    """What all quantized layers share; the second base of its subclasses is the layer's own class."""

    _bitq: _State
    _kind: Kind
    _fresh = True  # what `_compute` gives is new memory that no operation saved

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _made, (type(self).__bases__[1],), self.__getstate__()  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the layer computes, on a quantized weight between quantized activations."""
        if input.is_nested:  # as torch.nn.TransformerEncoder makes of padded sequences: the rows of all of them
            parts = input.unbind()
            y = self.forward(torch.cat(parts), *args, **kwargs)
            rows = torch.split(y, [len(part) for part in parts])
            return torch.nested.as_nested_tensor(list(rows), layout=input.layout)
        state, axis = self._bitq, self._kind.channel_axis(self)
        state.check_recomputed()
        fmt = state.formats.input
        if fmt is None or not input.is_floating_point():  # indices
            y = self._compute(input, *args, **kwargs)
        elif (stored := AsStored.of(input, fmt, axis)) is not None:
            with straight.saving_raw(stored.raw, input, fmt, stored.again):
                y = self._compute(input, *args, **kwargs)
        else:
            again = self._quantizing(input, "input")
            x = again(input)
            with straight.saving_raw(input, x, fmt, again):
                y = self._compute(x, *args, **kwargs)
        fmt, shared = state.formats.output, state.output
        if fmt is None:
            return y
        if state.stored_elsewhere and passing.due is not None:
            passing.due[state.name] += 1
            return y
        again = self._quantizing(y, "output")
        if self._fresh and "output" not in state.reaches:
            return straight.quantized_fresh(y, fmt, axis, shared.exponent_bias, shared.tensor_range)
        return again(y)

    def _bitq_store(self, y: Tensor) -> Tensor:
        """What elementwise functions made of the layer's output, as it is stored."""
        fmt = self._bitq.formats.output
        if fmt is None:
            return y
        if y.is_nested:
            return torch.nested.as_nested_tensor([self._bitq_store(part) for part in y.unbind()], layout=y.layout)
        again = self._quantizing(y, "output")
        x = again(y)
        AsStored.note(x, y, fmt, self._kind.channel_axis(self), again)
        return x

    def _quantizing(self, x: Tensor, tensor: TensorName) -> Callable[[Tensor], Tensor]:
        """What quantizes the input or output, of which x is one."""
        state, axis = self._bitq, self._kind.channel_axis(self)
        fmt, shared = getattr(state.formats, tensor), getattr(state, tensor)
        if fmt.never_negative and not (self.training or torch.compiler.is_compiling()):
            state.check_sign(x, tensor)
        if tensor in state.reaches:
            return partial(quantized_within, log_reach=state.reaches[tensor], fmt=fmt, axis=axis)
        return partial(
            quantize, fmt=fmt, dim=axis, exponent_bias=shared.exponent_bias, tensor_range=shared.tensor_range
        )

    def _compute(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given, *rest = args if self._kind.of_activations else (None, *args)
        return self._kind.compute(self, x, weight_in_use(self, given), *rest, **kwargs)


class _QuantizedItsOwnWay(_Quantized):
    """A layer whose class has a forward of its own, to which `self.weight` reads as the quantized one."""

    _fresh = False

    @property
    def weight(self) -> Tensor:
        """The layer's weight; within its own forward as it computes with it."""
        lent = self._bitq.lent.get(_thread())
        if lent is not None:
            return lent
        own = own_parameters(self).get("weight")
        weight: Tensor = super().weight if own is None else own  # type: ignore[misc]  # a parametrized one
        return weight

    @weight.setter
    def weight(self, value: Tensor) -> None:
        super(_Quantized, type(self)).weight.fset(self, value)  # type: ignore[misc]  # a parametrized one

    def _compute(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        forward = super(_Quantized, self).forward
        if self._bitq.formats.weight is None:
            y: Tensor = forward(x, *args, **kwargs)
            return y
        weight, lent = weight_in_use(self), self._bitq.lent
        before = weight.detach().clone() if direct(weight) else None
        lent[_thread()] = weight
        try:
            y = forward(x, *args, **kwargs)
        finally:
            del lent[_thread()]
        if before is not None and not _same_bits(before, weight.detach()):
            raise BitqError(
                f"the forward of {type(self).__bases__[1].__name__} writes to its weight, which is lost once it has "
                "a format; write to it outside of forward, or leave the weight float"
            )
        return y


def _store_at(model: nn.Module, points: dict[Call, str]) -> None:
    """Let a network's layers store their outputs at these points, or, without any, where they come out."""
    layers = set(points.values())
    for name, module in quantized_layers(model):
        module._bitq.stored_elsewhere = name in layers
    root(model, points)


def _called(module: nn.Module, args: Any) -> None:
    """Does nothing, but torch's fused encoder layers pass over no module with a hook."""


def _thread() -> int:
    """The running thread: several may run one module, or its replicas, at once."""
    return 0 if torch.compiler.is_compiling() else get_ident()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.view(kind), b.view(kind))


def _widened(known: Span | None, x: Tensor) -> Span:
    """The range of 0, what is known and the finite elements of x."""
    low, high = known or (0.0, 0.0)
    if not x.numel():
        return low, high
    finite = x.detach().nan_to_num(0.0, 0.0, 0.0)
    return min(low, float(finite.amin())), max(high, float(finite.amax()))


def _dense(x: Tensor) -> Tensor:
    """All elements of x, of a nested tensor's parts one after the other."""
    return torch.cat(x.unbind()) if x.is_nested else x


@cache
def _quantized_class(layer: type[nn.Module]) -> type[_Quantized]:
    kind = kind_of(layer)
    base = _Quantized if kind.computes_as_torch(layer) else _QuantizedItsOwnWay
    return type(f"Quantized{layer.__name__}", (base, layer), {"_kind": kind})


def _made(layer: type[nn.Module]) -> _Quantized:
    """An empty module that pickle or copy fills."""
    cls = _quantized_class(layer)  # type: ignore[arg-type]  # of a class, whatever mypy thinks of its hash
    return cls.__new__(cls)


def quantized_weight(layer: nn.Module, weight: Tensor, fmt: Format, shared: Shared | None = None) -> Tensor:
    """A layer's weight in a format, blocked as the layer's kind has it; of the weight's shape.

    Args:
        layer: whose weight it is.
        weight: float.
        fmt: of the weight.
        shared: by all of it; by default its own.
    """
    kind = layer._kind if isinstance(layer, _Quantized) else kind_of(layer)
    shape, dim, inner = kind.blocks(layer, tuple(weight.shape))
    own = shared or Shared()
    bias, tensor_range = own.exponent_bias, own.tensor_range
    y = quantize(weight.reshape(shape), fmt, dim, inner, exponent_bias=bias, tensor_range=tensor_range)
    return y.reshape(weight.shape)


def _layer(model: nn.Module, name: str) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise BitqError(f"the model has no module {name!r}{_elsewhere(model, name)}") from None
    reason = reason_against(model, name)
    if reason is not None:
        raise BitqError(f"module {name!r} {reason}")
    return module


def _elsewhere(model: nn.Module, name: str) -> str:
    """Where a module is that formats name as a network that wraps this one, or is wrapped in it, has it."""
    paths = [path for path, _ in model.named_modules() if path]
    inner = next((path for path in paths if name.endswith(f".{path}")), None)
    if inner is not None:
        above = name.removesuffix(f".{inner}")
        return f", but {inner!r}: the formats are of a network that has this one as its {above!r}"
    outer = next((path for path in paths if path.endswith(f".{name}")), None)
    if outer is not None:
        return f", but {outer!r}: the formats are of its {outer.removesuffix('.' + name)!r}, give that"
    return ""


def _named(model: nn.Module, formats: Mapping[str, TensorFormats]) -> Iterator[tuple[str, Any, TensorFormats]]:
    """Name, module and formats of each entry, once all are known to be right."""
    modules = {name: _layer(model, name) for name in formats}
    first: dict[nn.Module, str] = {}
    for name, module in modules.items():
        other = first.setdefault(module, name)
        if formats[other] != formats[name]:
            raise BitqError(f"modules {other!r} and {name!r} are one module; they need the same formats")
    return ((name, module, formats[name]) for name, module in modules.items())
