"""Who may ask a server: tokens through the command line."""

from __future__ import annotations

from staytrue.store.tokens import fingerprint, tokens


def test_a_token_is_shown_once_and_listed_without_itself(stocked):
    made = stocked.run("token", "new", "till", "--scope", "label", "--scope", "predict")
    listed = stocked.run("token", "list")

    assert (made.code, made.document["scopes"]) == (0, ["predict", "label"])
    assert [token.sha256 for token in tokens(stocked.store.ledger)] == [fingerprint(made.document["token"])]
    assert [(token["name"], token["revoked_at"]) for token in listed.document["tokens"]] == [("till", None)]
    assert made.document["token"] not in str(listed)
    assert stocked.verifies()


def test_a_revoked_token_leaves_the_list_but_not_the_history(stocked):
    stocked.run("token", "new", "till", "--scope", "read")

    gone = stocked.run("token", "revoke", "till")

    assert gone.document["revoked_at"] is not None
    assert stocked.run("token", "list").document["tokens"] == []
    assert [token["name"] for token in stocked.run("token", "list", "--all").document["tokens"]] == ["till"]
    assert [event["kind"] for event in stocked.events() if event["timeline"] == "access"] == [
        "token_made",
        "token_revoked",
    ]


def test_what_can_not_be_done_is_said_with_its_code(stocked):
    stocked.run("token", "new", "till", "--scope", "read")

    said = {
        "no scope": stocked.run("token", "new", "other"),
        "no name": stocked.run("token", "new", "--scope", "read"),
        "a name to list": stocked.run("token", "list", "till"),
        "a name in use": stocked.run("token", "new", "till", "--scope", "read"),
        "nobody to revoke": stocked.run("token", "revoke", "other"),
    }

    assert {what: (one.code, one.document["code"]) for what, one in said.items()} == {
        "no scope": (2, "ST727"),
        "no name": (2, "ST727"),
        "a name to list": (2, "ST727"),
        "a name in use": (4, "ST728"),
        "nobody to revoke": (3, "ST729"),
    }


def test_a_store_without_an_app_has_no_tokens(shop):
    store = shop.store_path
    store.mkdir()
    assert shop.run("token", "list").document["code"] == "ST470"
    (store / "ledger.db").touch()

    said = shop.run("token", "new", "till", "--scope", "read")

    assert (said.code, said.document["code"]) == (3, "ST729")
