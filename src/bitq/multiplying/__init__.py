"""Products that no module of its own computes, as modules: of two activations, and with weights of another module.

Where a network's code calls a function of torch that multiplies two activations, such as `matmul` or `einsum`, it gets
a `Product` for a child, which computes that one call. Functions that multiply inside are told in torch's terms first:
scaled dot-product attention as its two products, `torch.nn.MultiheadAttention` as torch's own code has it, recurrent
networks step by step. Their linear layers, and what computes with the table of an embedding, get a `Projection`, which
computes all of one weight. A network is changed by nothing but such children, which have nothing of their own to store;
`bitq.running` lets them compute.
"""

from bitq.multiplying.attention import attention
from bitq.multiplying.children import (
    PROJECTING,
    TOLD,
    Computed,
    Product,
    Projection,
    TransposedProjection,
    install,
    instead,
    multiplies,
    products_of,
    remove,
    rows_of,
    stored_name,
)
from bitq.multiplying.containers import hiding, showing
from bitq.multiplying.operands import Linear, Multiply, Operands, linears, operands

__all__ = [
    "PROJECTING",
    "TOLD",
    "Computed",
    "Linear",
    "Multiply",
    "Operands",
    "Product",
    "Projection",
    "TransposedProjection",
    "attention",
    "hiding",
    "install",
    "instead",
    "linears",
    "multiplies",
    "operands",
    "products_of",
    "remove",
    "rows_of",
    "showing",
    "stored_name",
]
