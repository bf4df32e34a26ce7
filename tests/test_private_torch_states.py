"""What PyTorch does not promise, asked in the states that it tells of and out of them."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.autograd.graph import disable_saved_tensors_hooks, saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from bitq import private_torch


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def within(context, question):
    with context:
        return question()


@pytest.mark.parametrize(
    ("question", "context"),
    [
        (private_torch.dispatching, Watching),
        (private_torch.differentiating_forward, forward_ad.dual_level),
        (lambda: not private_torch.saved_tensors_are_free(), lambda: disable_saved_tensors_hooks("not here")),
        (lambda: not private_torch.saved_tensors_are_free(), lambda: saved_tensors_hooks(lambda t: t, lambda t: t)),
    ],
)
def test_a_state_is_told_while_it_lasts(question, context):
    assert [question(), within(context(), question), question()] == [False, True, False]


def test_transformations_and_tracing_are_told():
    told = []

    def f(x):
        told.append((private_torch.transforming(), private_torch.jit_tracing()))
        return x * 2

    f(torch.ones(3))
    torch.func.vmap(f)(torch.ones(3))
    torch.func.grad(lambda x: f(x).sum())(torch.ones(3))
    torch.jit.trace(f, torch.ones(3), check_trace=False)
    assert told == [(False, False), (True, False), (True, False), (False, True)]


def test_writing_in_place_and_views_are_told():
    x = torch.ones(4)
    before = private_torch.version(x)
    x.detach().add_(1)
    assert private_torch.version(x) == before + 1
    assert not private_torch.is_view(x)
    assert private_torch.is_view(x[1:])
