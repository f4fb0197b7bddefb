"""Whether somebody may have written to the ledger."""

from __future__ import annotations

from datetime import UTC, datetime

from staytrue.store.ledger import Entry, Ledger
from staytrue.store.ledger_file import LedgerFile

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def write(ledger: Ledger, key: str) -> None:
    ledger.append([Entry(app="shop", key=key, at=NOW, kind="noted", sentence="Noted.")], recorded_at=NOW)


def test_a_commit_is_worth_a_read_at_once_and_for_half_a_second(tmp_path):
    # given
    ledger = Ledger.open(tmp_path / "ledger.db")
    file = LedgerFile(tmp_path)
    assert file.may_have_moved(0.0)
    assert file.may_have_moved(0.4)
    assert not file.may_have_moved(0.5)
    # when
    write(ledger, "one")
    # then
    assert [file.may_have_moved(s) for s in (0.6, 0.7, 1.05, 1.15, 1.2)] == [True, True, True, False, False]


def test_without_a_commit_it_is_read_twice_a_second(tmp_path):
    Ledger.open(tmp_path / "ledger.db").close()
    file = LedgerFile(tmp_path)
    file.may_have_moved(0.0)
    assert [n / 8 for n in range(4, 24) if file.may_have_moved(n / 8)] == [0.5, 1.0, 1.5, 2.0, 2.5]


def test_every_commit_is_seen(tmp_path):
    ledger, file = Ledger.open(tmp_path / "ledger.db"), LedgerFile(tmp_path)
    file.may_have_moved(0.0)
    for second in range(2, 52):
        assert file.may_have_moved(float(second))
        assert not file.may_have_moved(second + 0.25)
        write(ledger, str(second))
        assert file.may_have_moved(second + 0.375)
