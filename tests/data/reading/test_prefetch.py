"""Batches that a thread makes ahead."""

import pytest

from data.reading.prefetch import read_ahead
from utils.errors import UserError


def test_order_is_kept_and_errors_are_raised():
    def batches():
        yield from (1, 2, 3)
        raise UserError("broken.")

    seen = []
    with pytest.raises(UserError, match="broken"):
        for item in read_ahead(batches()):
            seen.append(item)
    assert seen == [1, 2, 3]
