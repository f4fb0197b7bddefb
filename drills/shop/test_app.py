"""What must hold of a quote, whatever model gives it."""

import app
import pandas as pd

NIGHTS = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "terrace": [0, 1, 0, 1], "rate": [30.0, 40.0, 50.0, 60.0]})


def test_a_larger_flat_costs_more():
    small, *_, large = app.quote(app.fit(NIGHTS), NIGHTS)

    assert 29 < small < 31
    assert 59 < large < 61
