"""Equations of `torch.einsum`, and what they come to as products of two matrices."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Contraction:
    """A sum of products of two tensors, by the letters of their axes.

    Attributes:
        terms: of the first and of the second tensor.
        out: of the result.
        sizes: by letter.
    """

    terms: tuple[str, str]
    out: str
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, equation: str, factors: Sequence[Tensor]) -> Contraction | None:
        """None, if it is none of two tensors, each with each letter once, that adds anything up."""
        found = _letters(equation, factors) if len(factors) == 2 else None
        if found is None:
            return None
        *terms, out = found
        sizes = dict(zip("".join(terms), (size for x in factors for size in x.shape), strict=True))
        contraction = cls((terms[0], terms[1]), out, sizes)
        return contraction if contraction.summed else None

    @property
    def reversed(self) -> Contraction:
        """The same of the second and the first tensor."""
        return Contraction(self.terms[::-1], self.out, self.sizes)

    @property
    def summed(self) -> str:
        """What is added up of both tensors."""
        return "".join(letter for letter in self.terms[0] if letter in self.terms[1] and letter not in self.out)

    @property
    def batch(self) -> str:
        """What both tensors and the result have."""
        return "".join(letter for letter in self.out if all(letter in term for term in self.terms))

    def vectors(self, place: int) -> str:
        """What the result has of one of the tensors alone: the rows are the first one's, the columns the second's."""
        return "".join(letter for letter in self.out if letter in self.terms[place] and letter not in self.batch)

    def matrices(self, x: Tensor, place: int) -> Tensor:
        """One of the tensors as [vectors, summed], behind one axis for the batch if there is any."""
        kept, own = self.batch + self.vectors(place) + self.summed, self.terms[place]
        if alone := [axis for axis, letter in enumerate(own) if letter not in kept]:
            x, own = x.sum(alone), "".join(letter for letter in own if letter in kept)
        groups = (self.batch, self.vectors(place), self.summed)[0 if self.batch else 1 :]
        return x.permute([own.index(letter) for letter in kept]).reshape([self._size(each) for each in groups])

    def multiplied(self, first: Tensor, second: Tensor) -> Tensor:
        """Both as `matrices` gives them to [batch, rows, columns]."""
        return torch.einsum("brs,bcs->brc" if self.batch else "rs,cs->rc", first, second)

    def result(self, product: Tensor) -> Tensor:
        """What `multiplied` gives as the equation has it."""
        found = self.batch + self.vectors(0) + self.vectors(1)
        return product.reshape([self.sizes[each] for each in found]).permute([found.index(each) for each in self.out])

    def _size(self, letters: str) -> int:
        return prod(self.sizes[letter] for letter in letters)


def equation_of(args: Sequence[Any]) -> tuple[str, list[Any]] | None:
    """The equation and the tensors of a call of `einsum`; None if it has them in its other form."""
    equation, *factors = args
    if len(factors) == 1 and isinstance(factors[0], list | tuple):
        factors = list(factors[0])
    return (equation.replace(" ", ""), factors) if isinstance(equation, str) else None


def pairwise(*args: Any) -> Any:
    """`einsum` of three tensors or more by calls of two each, from left to right as torch has it.

    NotImplemented for two or one, and for what torch refuses.
    """
    equation, factors = equation_of(args) or ("", [])
    if len(factors) < 3 or not all(isinstance(each, Tensor) for each in factors):
        return NotImplemented
    found = _letters(equation, factors)
    if found is None:
        return NotImplemented
    *terms, out = found
    while len(terms) > 2:
        first, second, *rest = terms
        both = "".join(dict.fromkeys(letter for letter in first + second if letter in out + "".join(rest)))
        factors = [torch.einsum(f"{first},{second}->{both}", *factors[:2]), *factors[2:]]
        terms = [both, *rest]
    return torch.einsum(f"{','.join(terms)}->{out}", *factors)


def _letters(equation: str, factors: Sequence[Tensor]) -> list[str] | None:
    """A letter for every axis of the tensors, those of `...` too, and of the result.

    None, if one tensor has a letter twice, a letter has several sizes, or the equation is not of these tensors.
    """
    sides, arrow, out = equation.partition("->")
    terms = sides.split(",")
    if len(terms) != len(factors):
        return None
    others = [letter for letter in string.ascii_letters if letter not in equation]
    counts = [max(x.dim() - len(term) + 3, 0) if "..." in term else 0 for term, x in zip(terms, factors, strict=True)]
    dots = "".join(others[: max(counts)])
    terms = [term.replace("...", dots[len(dots) - count :]) for term, count in zip(terms, counts, strict=True)]
    if not all(len({*term}) == len(term) == x.dim() for term, x in zip(terms, factors, strict=True)):
        return None
    times = Counter("".join(terms))
    once = "".join(sorted(letter for letter in times if times[letter] == 1 and letter not in dots))
    out = out.replace("...", dots) if arrow else dots + once
    sizes = set(zip("".join(terms), (size for x in factors for size in x.shape), strict=True))
    return [*terms, out] if len(sizes) == len(times) and {*out} <= {*times} and len({*out}) == len(out) else None
