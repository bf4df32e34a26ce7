"""What holds of every finished `bitq compare`, whatever the task."""

import re

import pytest


def check_comparison(found, page, metric):
    """All rules ran and were judged by this metric, O follows from it, and the page names no other.

    `found` is what `--json` says; `page` the text of the page.
    """
    assert found["metric"] == metric
    assert not any(line["reason"] for line in found["rules"])
    (seed,) = found["seeds"]
    for line in seed["results"]:
        share = line["movement_bits"] / seed["movement_bits_max"]
        assert line["objective"] == pytest.approx(1 - line["accuracy"] + 0.2 * share), line["label"]
    assert metric in page
    assert "accuracy" not in re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S).lower()
