"""What a score says, and what it cannot."""

import pytest

from bitq.accuracy.evaluate import Score, finite
from bitq.errors import BitqError


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_is_told(loss):
    assert finite(Score(1.5, 0.25)) == Score(1.5, 0.25)
    with pytest.raises(BitqError, match=f"^the loss is {loss} instead of a finite number; give the network"):
        finite(Score(loss, 0.25))
