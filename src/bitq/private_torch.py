"""Every name of PyTorch that its documentation does not promise, in one place: what a new version may take away."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transforming() -> bool:
    """Whether a transformation of `torch.func`, such as `vmap` or `grad`, is at work."""
    return torch._C._are_functorch_transforms_active()


def differentiating_forward() -> bool:
    """Whether some `torch.autograd.forward_ad.dual_level` is entered."""
    return forward_ad._current_level >= 0


def dispatching() -> bool:
    """Whether a `TorchDispatchMode` sees every operation."""
    return torch._C._len_torch_dispatch_stack() > 0


def jit_tracing() -> bool:
    """Whether `torch.jit.trace` records every operation."""
    return torch._C._get_tracing_state() is not None


def version(x: Tensor) -> int:
    """How often x's memory was written to in place, as autograd counts it."""
    return x._version


def is_view(x: Tensor) -> bool:
    """Whether x is a view of another tensor in autograd's eyes."""
    return x._is_view()


def saved_tensors_are_free() -> bool:
    """Whether saved tensors may be given hooks: these are not disabled, and nobody has set any."""
    hooks = torch._C._autograd
    return hooks._saved_tensors_hooks_is_enabled() and hooks._top_saved_tensors_default_hooks(True) is None  # type: ignore[attr-defined]
