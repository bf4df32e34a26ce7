"""Torchvision beside a PyTorch that its compiled operators do not fit, such as the CPU's: import this before it.

Torchvision has `roi_align` in Python, too, and takes that where its operators are missing. What it lacks then is `nms`.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The boxes that no better one overlaps by more than a share, the best first (greedy non-maximum suppression).

    Args:
        boxes: [boxes, 4], as (x1, y1, x2, y2).
        scores: [boxes].
        iou_threshold: least intersection over union that is too much.

    Returns:
        Their indices, int64.
    """
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes[order].double()
    low, high = sorted_boxes[:, :2], sorted_boxes[:, 2:]
    area = (high - low).prod(-1)
    shared = (torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)).clamp(min=0).prod(-1)
    overlaps = (shared / (area[:, None] + area - shared) > iou_threshold).tolist()
    kept: list[int] = []
    for box in range(len(order)):
        if not any(overlaps[better][box] for better in kept):
            kept.append(box)
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


def install() -> None:
    """Let torchvision be imported, and its detectors find `nms`, whatever PyTorch is there."""
    if _installed:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")
    _installed.append(library)
    import torchvision
    from torchvision.ops import boxes, roi_align

    if not torchvision.extension._has_ops():
        boxes._assert_has_ops = lambda: None
        module = sys.modules[roi_align.__module__]
        module._roi_align = module._roi_align.__wrapped__  # as it is, not compiled when it is first called


_installed: list[torch.library.Library] = []
"""What goes when it is collected."""
