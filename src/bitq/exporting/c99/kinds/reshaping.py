"""Operators that compute nothing: views, tensors side by side, and what only trains."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from bitq.exporting.c99.kinds.joining import read
from bitq.exporting.c99.lowering import Flowing, Lowering, UnknownError, computes


@computes("cat")
def _cat(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    flows, axis = list(given["tensors"]), given.get("dim", 0)
    first = flows[0]
    if not all(isinstance(flow, Flowing) and flow.content is not None and not flow.flat for flow in flows):
        raise UnknownError("it takes a tensor that has no format")
    axis = axis % (len(first.shape) + 1) - 1
    if any(flow.axis != axis for flow in flows):
        raise UnknownError("it joins tensors along another axis than that of their channels")
    shape = lowering.shape()
    return Flowing(shape, axis, read(tuple(lowering.stored(flow) for flow in flows)))


@computes("flatten", "view", "reshape", "_unsafe_view", "squeeze", "unsqueeze")
def _view(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    flow = given["self"]
    shape = lowering.shape()
    if shape == flow.shape:
        return flow  # type: ignore[no-any-return]
    if flow.axis is None and flow.content is None:
        return replace(flow, shape=shape)  # type: ignore[no-any-return]
    count = prod(shape)
    if flow.axis is not None and flow.shape[flow.axis] == count and count in shape:  # nothing but channels
        return replace(flow, shape=shape, axis=shape.index(count), recipe=None)  # type: ignore[no-any-return]
    if len(shape) == 1 and flow.axis == 0:
        return replace(flow, shape=shape, axis=0, flat=True, recipe=None)  # type: ignore[no-any-return]
    raise UnknownError("it lays the tensor out in another way than one after the other")


@computes("dropout", "feature_dropout", "clone", "contiguous", "detach", "alias", "identity")
def _same(lowering: Lowering, given: dict[str, Any]) -> Flowing:
    if given.get("train"):
        raise UnknownError("it is in training mode")
    return next(iter(given.values()))  # type: ignore[no-any-return]
