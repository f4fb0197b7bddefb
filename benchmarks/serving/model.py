"""Trains the peers' model: app.py's function on app.py's rows.  python model.py SINCE UNTIL FILE."""

import pickle
import sys
from pathlib import Path

import pandas as pd
from app import drawn, fit


def main() -> None:
    """Write the pickled model that every peer loads."""
    since, until, file = sys.argv[1:]
    rows = drawn(pd.Timestamp(since, tz="UTC"), pd.Timestamp(until, tz="UTC"))
    Path(file).write_bytes(pickle.dumps(fit(rows)))


if __name__ == "__main__":
    main()
