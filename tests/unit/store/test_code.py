"""Code: the dirty tree, kept and given back byte for byte; nothing outside its folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from staytrue.errors import Conflict, Corrupt, InvalidInput, NotFound
from staytrue.kernel.release import Digest
from staytrue.store import code as codes
from staytrue.store.code import checkout, files_changed, load, snapshot, text_diff, training_code
from staytrue.store.objects import LocalObjects, digest

APP = """\
from staytrue import App
from features import encode
app = App("rates")

@app.train
def fit(bookings):
    # all of them
    return encode(bookings)

@app.predict()
def quote(model, rows):
    return rows
"""


@pytest.fixture
def objects(tmp_path):
    return LocalObjects(tmp_path / "store")


@pytest.fixture
def app(tmp_path):
    root = tmp_path / "app"
    write(
        root,
        {
            "app.py": APP,
            "features.py": "CITIES = 'cities.csv'\ndef encode(rows):\n    return rows\n",
            "charts.py": "x = 1\n",
            "README.md": "# Rates\n",
            "tests/test_app.py": "def test(): ...\n",
            "data/cities.csv": "a,b\n",
        },
    )
    return root


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text if isinstance(text, bytes) else text.encode())


def paths(code: codes.Code) -> list[str]:
    return [file.path for file in code.files]


def content(root: Path) -> dict[str, tuple[bytes, bool]]:
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR))
        for path in root.rglob("*")
        if path.is_file()
    }


# ---------------------------------------------------------------- snapshot


def test_a_snapshot_needs_no_git_and_names_every_file_in_order(objects, app):
    assert paths(snapshot(objects, app, entry="app.py")) == [
        "README.md",
        "app.py",
        "charts.py",
        "data/cities.csv",
        "features.py",
        "tests/test_app.py",
    ]


def test_the_same_files_are_the_same_code_wherever_they_lie(objects, app, tmp_path):
    # given
    write(tmp_path / "copy", {path: text for path, (text, _) in content(app).items()})
    # then
    one, two = (snapshot(objects, root, entry="app.py") for root in (app, tmp_path / "copy"))
    assert one == two
    assert load(objects, one.id) == one


def test_every_change_to_content_name_mode_or_entry_is_another_code(objects, app):
    seen = {snapshot(objects, app, entry="app.py").id, snapshot(objects, app, entry="charts.py").id}
    (app / "README.md").write_text("# Prices\n")
    seen.add(snapshot(objects, app, entry="app.py").id)
    (app / "README.md").rename(app / "READ.md")
    seen.add(snapshot(objects, app, entry="app.py").id)
    (app / "charts.py").chmod(0o755)
    seen.add(snapshot(objects, app, entry="app.py").id)
    assert len(seen) == 5


def test_what_gitignore_names_and_what_is_never_code_is_left_out(objects, app):
    # given
    never = [
        ".git/HEAD",
        ".staytrue/x",
        ".venv/x",
        "venv/x",
        "a/__pycache__/x",
        "x.pyc",
        "node_modules/x",
        ".env",
        ".DS_Store",
    ]
    write(
        app,
        dict.fromkeys([*never, "my/pyvenv.cfg", "my/lib.py", "big.csv", "data/b.csv", "data/keep.csv", "out/x"], ""),
    )
    write(app, {".gitignore": "*.csv\n/out/\n", "data/.gitignore": "!keep.csv\n"})
    # then
    assert [path for path in paths(snapshot(objects, app, entry="app.py")) if not path.endswith((".py", ".md"))] == [
        ".gitignore",
        "data/.gitignore",
        "data/keep.csv",
    ]


def test_the_store_is_never_part_of_the_code_it_keeps(app):
    objects = LocalObjects(app / "kept")
    first = snapshot(objects, app, entry="app.py")
    assert snapshot(objects, app, entry="app.py") == first
    assert not any(path.startswith("kept/") for path in paths(first))


def test_a_link_inside_the_folder_is_kept_as_what_it_points_to(objects, app):
    # given
    (app / "cities.csv").symlink_to("data/cities.csv")
    (app / "linked").symlink_to("data", target_is_directory=True)
    # then
    found = {file.path: file.digest for file in snapshot(objects, app, entry="app.py").files}
    assert found["cities.csv"] == found["linked/cities.csv"] == found["data/cities.csv"]


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("key", "/etc/passwd", "leads out"),
        ("up", "..", "leads out"),
        ("gone", "nowhere", "leads nowhere"),
        ("data/loop", ".", "circle"),
    ],
)
def test_a_link_that_leads_elsewhere_is_refused_by_name(objects, app, name, target, why):
    (app / name).symlink_to(target)
    with pytest.raises(InvalidInput, match=why) as caught:
        snapshot(objects, app, entry="app.py")
    assert (caught.value.code, caught.value.facts["path"]) == ("ST120", name)


def test_an_ignored_link_may_lead_anywhere(objects, app):
    (app / "data2").symlink_to("/")
    write(app, {".gitignore": "data2/\n"})
    assert "app.py" in paths(snapshot(objects, app, entry="app.py"))


def test_a_file_too_large_for_code_is_refused_by_name(objects, app):
    with (app / "big.bin").open("wb") as file:
        file.truncate(codes.FILE_LIMIT_BYTES + 1)
    with pytest.raises(InvalidInput, match=r"big\.bin") as caught:
        snapshot(objects, app, entry="app.py")
    assert caught.value.code == "ST121"


def test_a_pipe_in_the_folder_is_no_code_and_does_not_hang(objects, app):
    os.mkfifo(app / "pipe")
    assert "pipe" not in paths(snapshot(objects, app, entry="app.py"))


def test_a_name_is_kept_in_composed_unicode(objects, app):
    name = "café.txt"
    (app / unicodedata.normalize("NFD", name)).write_text("")
    assert unicodedata.normalize("NFC", name) in paths(snapshot(objects, app, entry="app.py"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps such names")
@pytest.mark.parametrize("names", [[b"caf\xff"], [b"a\\b"], [b"a\nb"], [b"C:x"], [b"caf\xc3\xa9", b"cafe\xcc\x81"]])
def test_a_name_that_other_platforms_cannot_hold_is_refused(objects, app, names):
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(app), name))).touch()  # noqa: PTH118 - bytes
    with pytest.raises(InvalidInput) as caught:
        snapshot(objects, app, entry="app.py")
    assert caught.value.code == "ST122"


@pytest.mark.parametrize(("root", "entry"), [("nowhere", "app.py"), ("app/app.py", "app.py"), ("app", "main.py")])
def test_a_missing_folder_or_entry_is_refused(objects, app, root, entry):
    with pytest.raises(InvalidInput) as caught:
        snapshot(objects, app.parent / root, entry=entry)
    assert caught.value.code == "ST118"


# ---------------------------------------------------------------- checkout


def test_a_checkout_gives_back_every_byte_and_the_executable_bit(objects, app, tmp_path):
    # given
    write(app, {"run.sh": "#!/bin/sh\n", "bytes.bin": bytes(range(256)), "empty": "", "ü/ñ.txt": "x"})
    (app / "run.sh").chmod(0o755)
    code = snapshot(objects, app, entry="app.py")
    # when
    dest = checkout(objects, code.id, tmp_path / "out" / "tree")
    # then
    assert content(dest) == content(app)
    assert snapshot(objects, dest, entry="app.py").id == code.id


def test_a_second_checkout_changes_nothing_and_caches_beside_it_do_not_matter(objects, app, tmp_path):
    code = snapshot(objects, app, entry="app.py")
    dest = checkout(objects, code.id, tmp_path / "tree")
    (dest / "__pycache__").mkdir()
    before = (dest / "app.py").stat()
    assert checkout(objects, code.id, dest) == dest
    assert (dest / "app.py").stat() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_with_other_content_is_not_touched(objects, app, tmp_path):
    code = snapshot(objects, app, entry="app.py")
    write(tmp_path / "mine", {"app.py": "my work"})
    with pytest.raises(Conflict) as caught:
        checkout(objects, code.id, tmp_path / "mine")
    assert caught.value.code == "ST124"
    assert content(tmp_path / "mine") == {"app.py": (b"my work", False)}


def test_a_checkout_that_fails_leaves_nothing_behind(objects, app, tmp_path):
    # given: one of the files is lost
    code = snapshot(objects, app, entry="app.py")
    objects.delete(code.files[-1].digest)
    objects.destroy(code.files[-1].digest)
    # when
    with pytest.raises(NotFound):
        checkout(objects, code.id, tmp_path / "out" / "tree")
    # then
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/etc/x",
        "C:\\x",
        "C:/x",
        "a\\..\\x",
        "a\0b",
        "",
        ".",
        "..",
        ".. ",
        "a//b",
        "a/",
        "./x",
        "cafe\u0301",
    ],
)
def test_a_hostile_name_in_a_manifest_is_refused_and_nothing_is_written(objects, tmp_path, name):
    # given
    data = objects.put(b"x")
    hostile = objects.put_document({"kind": "code", "entry": "./app.py", "files": [["./" + name, "644", 1, data]]})
    # when
    with pytest.raises(Corrupt) as caught:
        checkout(objects, hostile, tmp_path / "out" / "tree")
    # then
    assert caught.value.code == "ST123"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "table"},
        {"kind": "code", "entry": 1, "files": []},
        {"kind": "code", "entry": "./x", "files": [["x", "644", 1, "ab" * 32]]},
        {"kind": "code", "entry": "./x", "files": [["./x", "777", 1, "ab" * 32]]},
        {"kind": "code", "entry": "./x", "files": [["./x", "644", 1, "zz"]]},
        {"kind": "code", "entry": "./x", "files": [["./x", "644", 1, "ab" * 32]] * 2},
        {"kind": "code", "entry": "./a", "files": [["./x", "644", 1, "ab" * 32]]},
    ],
)
def test_what_is_no_code_manifest_is_corrupt(objects, document):
    with pytest.raises(Corrupt) as caught:
        load(objects, objects.put_document(document))
    assert caught.value.code == "ST123"


def test_old_code_runs_as_it_did(objects, app, tmp_path):
    # given
    write(app, {"app.py": "from features import encode\nprint(encode('old'))\n"})
    old = snapshot(objects, app, entry="app.py")
    write(app, {"features.py": "def encode(rows):\n    return 'new'\n"})
    # when
    dest = checkout(objects, old.id, tmp_path / "tree")
    # then
    ran = subprocess.run([sys.executable, "app.py"], cwd=dest, capture_output=True, text=True, check=True)
    assert ran.stdout == "old\n"


# ---------------------------------------------------------------- differences


def test_changed_files_are_told_as_added_removed_and_changed(objects, app):
    # given
    before = snapshot(objects, app, entry="app.py").id
    (app / "charts.py").unlink()
    write(app, {"new.py": "", "README.md": "# Prices\nno end"})
    after = snapshot(objects, app, entry="app.py").id
    # then
    assert files_changed(objects, before, after) == codes.Changes(
        added=("new.py",), removed=("charts.py",), changed=("README.md",)
    )
    assert text_diff(objects, before, after, "README.md") == (
        "--- a/README.md\n+++ b/README.md\n@@ -1 +1,2 @@\n-# Rates\n+# Prices\n+no end\n\\ No newline at end of file\n"
    )
    assert text_diff(objects, before, after, "charts.py").startswith("--- a/charts.py\n+++ /dev/null\n")
    assert text_diff(objects, before, after, "app.py") == ""
    with pytest.raises(NotFound) as caught:
        text_diff(objects, before, after, "nothing.py")
    assert caught.value.code == "ST125"


def test_a_changed_file_that_is_no_text_is_told_by_its_size(objects, app):
    codes_ = []
    for data in (b"\xff\x00", b"\xff\x00\x01"):
        write(app, {"x.bin": data})
        codes_.append(snapshot(objects, app, entry="app.py").id)
    assert text_diff(objects, *codes_, "x.bin") == "x.bin is not text: 2 bytes before, 3 after.\n"


# ---------------------------------------------------------------- what training sees


@pytest.mark.parametrize(
    "edit",
    [
        {"README.md": "# Prices\n"},
        {"tests/test_app.py": "def test(): assert 1\n"},
        {"app.py": APP.replace("# all of them", "# every one")},
        {"app.py": APP.replace("return rows", "return rows * 2")},
        {"charts.py": "x = 2\n"},
        {"pyproject.toml": "[project]\n"},
        {"docs/guide.md": "Read me.\n"},
        {"notes.txt": "A log that no training reads.\n"},
    ],
)
def test_an_edit_that_training_cannot_see_keeps_the_training_code(objects, app, edit):
    before = snapshot(objects, app, entry="app.py")
    write(app, edit)
    after = snapshot(objects, app, entry="app.py")
    assert after.id != before.id
    assert training_code(objects, after) == training_code(objects, before)


@pytest.mark.parametrize(
    "edit",
    [
        {"app.py": APP.replace("encode(bookings)", "encode(bookings, 2)")},
        {"features.py": "def encode(rows):\n    return rows[1:]\n"},
        {"data/cities.csv": "a,b\n1,2\n"},
    ],
)
def test_an_edit_of_what_training_sees_is_another_training_code_and_undoing_it_the_old_one(objects, app, edit):
    # given
    before = training_code(objects, snapshot(objects, app, entry="app.py"))
    old = {path: (app / path).read_bytes() for path in edit}
    # when
    write(app, edit)
    after = training_code(objects, snapshot(objects, app, entry="app.py"))
    write(app, old)
    # then
    assert after != before
    assert training_code(objects, snapshot(objects, app, entry="app.py")) == before


def test_the_training_code_names_what_counted_and_every_reference_in_it_is_kept(objects, app):
    document = objects.get_document(training_code(objects, snapshot(objects, app, entry="app.py")))
    assert list(document["files"]) == ["./app.py", "./data/cities.csv", "./features.py"]
    assert all(objects.has(Digest(name)) for name in document["files"].values())


def test_a_file_named_like_a_digest_is_no_reference(objects, app):
    name = digest(b"nothing kept")
    write(app, {name: "x"})
    code = snapshot(objects, app, entry="app.py")
    for document in (code.id, training_code(objects, code)):
        assert f'"{name}"'.encode() not in objects.get(document)


def test_training_code_of_an_entry_that_is_not_there_is_refused(objects, app):
    with pytest.raises(InvalidInput) as caught:
        training_code(objects, snapshot(objects, app, entry="app.py"), entry="main.py")
    assert caught.value.code == "ST118"
