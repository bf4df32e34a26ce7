"""What metrics and losses are called, by what a results store tells of them."""

from __future__ import annotations

import re

from bitq.errors import shortened

_DIGEST = re.compile(r" (?:[0-9a-f]{16}|\(unidentified [0-9a-f]{12}\))$")
_TOP1 = "bitq.accuracy.evaluate.top1"
_AGREEMENT = "_with_float32"
"""What the names of bitq's metrics of agreement end in."""


def measure(identity: object) -> str:
    """What a metric is called, by what a results store tells of it: as its task calls it, or by its function's name.

    Args:
        identity: such as "bitq.tasks.detect.box_ap", or "nets.f1 0123456789abcdef" with a digest of what it does.

    Returns:
        "accuracy" for top-1 accuracy and where nothing is told; "agreement with float32" for what data without labels
        are judged by.
    """
    name = without_digest(identity) if isinstance(identity, str) else _TOP1
    own = name.rpartition(".")[2]
    if name == _TOP1:
        return "accuracy"
    if not name.startswith("bitq."):
        return shortened(own)
    return own.replace("_", " " if own.endswith(_AGREEMENT) else "-")


def without_digest(identity: str) -> str:
    """The name of a function, by what a results store tells of it."""
    return _DIGEST.sub("", identity)
