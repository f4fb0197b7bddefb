"""Tokens: made once, shown once, kept as a hash, revoked for good."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from staytrue.errors import Conflict, InvalidInput, NotFound
from staytrue.store.ledger import Ledger
from staytrue.store.tokens import SCOPES, fingerprint, make_token, revoke_token, tokens

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger.open(tmp_path / "ledger.db")) as ledger:
        yield ledger


def test_a_token_is_kept_as_its_hash_and_nowhere_as_itself(ledger, tmp_path):
    token = make_token(ledger, "rates", "till", ["label", "predict"], now=NOW)

    (kept,) = tokens(ledger)
    assert (kept.name, kept.scopes, kept.made_at, kept.sha256) == (
        "till",
        ("predict", "label"),
        NOW,
        fingerprint(token),
    )
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(token.removeprefix("st_").encode() in data for data in files)


def test_two_tokens_are_never_the_same_and_hold_256_bits(ledger):
    made = {make_token(ledger, "rates", f"t{i}", ["read"], now=NOW) for i in range(20)}

    assert len(made) == 20
    assert {len(token) for token in made} == {len("st_") + 43}  # 43 letters of 6 bits are 256 bits and 2


def test_a_revoked_token_is_gone_and_its_name_free_again(ledger):
    first = make_token(ledger, "rates", "till", ["read"], now=NOW)

    gone = revoke_token(ledger, "till", now=NOW + timedelta(days=1))
    second = make_token(ledger, "rates", "till", ["read"], now=NOW + timedelta(days=2))

    assert gone.revoked_at == NOW + timedelta(days=1)
    assert [token.sha256 for token in tokens(ledger)] == [fingerprint(second)]
    assert [token.sha256 for token in tokens(ledger, revoked=True)] == [fingerprint(first), fingerprint(second)]
    assert ledger.verify() == []


def test_a_token_of_any_app_counts_for_the_store(ledger):
    make_token(ledger, "rates", "one", ["read"], now=NOW)
    make_token(ledger, "prices", "two", ["read"], now=NOW)

    assert [token.name for token in tokens(ledger)] == ["one", "two"]


@pytest.mark.parametrize("name", ["", " ", "-x", ".x", "a b", "a/b", "x" * 64, "é", "a\n"])
def test_a_name_that_can_not_be_is_refused(ledger, name):
    with pytest.raises(InvalidInput) as refused:
        make_token(ledger, "rates", name, ["read"], now=NOW)

    assert refused.value.code == "ST727"
    assert tokens(ledger) == []


@pytest.mark.parametrize("scopes", [[], ["admin"], ["read", "write"]])
def test_scopes_that_can_not_be_are_refused_with_those_that_can(ledger, scopes):
    with pytest.raises(InvalidInput, match=", ".join(SCOPES)) as refused:
        make_token(ledger, "rates", "till", scopes, now=NOW)

    assert refused.value.code == "ST727"


def test_a_name_in_use_is_refused(ledger):
    make_token(ledger, "rates", "till", ["read"], now=NOW)

    with pytest.raises(Conflict) as refused:
        make_token(ledger, "rates", "till", ["predict"], now=NOW)

    assert refused.value.code == "ST728"
    assert [token.scopes for token in tokens(ledger)] == [("read",)]


@pytest.mark.parametrize("name", ["nobody", "gone"])
def test_what_is_not_in_use_can_not_be_revoked(ledger, name):
    make_token(ledger, "rates", "gone", ["read"], now=NOW)
    revoke_token(ledger, "gone", now=NOW)

    with pytest.raises(NotFound) as missing:
        revoke_token(ledger, name, now=NOW)

    assert missing.value.code == "ST729"


def test_of_many_that_take_a_name_at_once_one_gets_it(ledger):
    start, made, refused = threading.Barrier(4), [], []

    def make():
        start.wait(10)
        try:
            made.append(make_token(ledger, "rates", "till", ["read"], now=NOW))
        except Conflict as exc:
            refused.append(exc.code)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert (len(made), refused) == (1, ["ST728"] * 3)
    assert [token.sha256 for token in tokens(ledger)] == [fingerprint(made[0])]
