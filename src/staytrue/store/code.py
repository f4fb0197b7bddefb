"""Code: an app's files as they are now, kept as a tree of digests, and what of it a training can see.

A snapshot needs neither a commit nor git: it is the dirty work tree, minus what `.gitignore` leaves out. The bytes are
kept, so a release of last year runs with the code of last year. Names go through one check in both directions: a
checkout can't write outside its folder, whatever a manifest says.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import uuid
from dataclasses import dataclass
from difflib import unified_diff
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from unicodedata import normalize

from staytrue.errors import Conflict, Corrupt, InvalidInput, NotFound
from staytrue.kernel.gitignore import Rule, ignored, rules
from staytrue.kernel.release import Digest, is_digest
from staytrue.kernel.training_code import seen_by_training
from staytrue.store.durable import disk, sync_file
from staytrue.store.objects import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from staytrue.store.objects import LocalObjects

__all__ = [
    "FILE_LIMIT_BYTES",
    "Changes",
    "Code",
    "File",
    "checkout",
    "files_changed",
    "load",
    "snapshot",
    "text_diff",
    "training_code",
]

FILE_LIMIT_BYTES = 50_000_000
"""A larger file is data, not code: it belongs into a source, or into `.gitignore`."""

Mode = Literal["644", "755"]


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of an app: `path` is relative to the app's folder, `/` between its names; mode 755 means executable."""

    path: str
    mode: Mode
    size: int
    digest: Digest


@dataclass(frozen=True, kw_only=True)
class Code:
    """An app's files, sorted by path, and the path of the module that holds the app."""

    id: Digest
    entry: str
    files: tuple[File, ...]


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Paths that differ from one code to another, each sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def snapshot(objects: LocalObjects, root: Path, *, entry: str) -> Code:
    """The files of the app in `root` as they are now, kept as objects; the user's files are only read.

    Left out are what a `.gitignore` in `root` or below says, and always: version control, environments, caches, `.env`
    (it holds secrets) and the store itself. A symbolic link to something inside `root` is kept as what it points to.

    Raises:
        InvalidInput: ST118 no such folder, or `entry` is not among its files; ST119 a file can't be read; ST120 a link
            that leads outside, nowhere or in a circle; ST121 a file over `FILE_LIMIT_BYTES`; ST122 a name that can't be
            kept. Each names the file.
        Unavailable: as `LocalObjects.put`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from staytrue.store.objects import LocalObjects
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "app.py").write_text("app = 1")
        >>> code = snapshot(LocalObjects(root / ".staytrue"), root, entry="app.py")
        >>> [(file.path, file.mode, file.size) for file in code.files]
        [('app.py', '644', 7)]
    """
    root = root.resolve()
    if not root.is_dir():
        msg = f"Reading the app's files: {root} is not a folder. Give the path of the app's module with --app."
        raise InvalidInput("ST118", msg, root=str(root))
    found: dict[str, File] = {}
    for path, source in _Walk(root, objects.root.resolve()).files():
        if path in found:
            msg = f"Reading the app's files: two files are called {path!r} once Unicode is normalised. Rename one."
            raise InvalidInput("ST122", msg, path=path)
        file = _keep(objects, path, source)
        if file is not None:
            found[path] = file
    files = tuple(found[path] for path in sorted(found))
    entry = normalize("NFC", entry)
    if entry not in found:
        msg = (
            f"Reading the app's files: {entry!r} is not among the {len(files)} files of {root}. "
            "Look whether it is there, and whether a .gitignore leaves it out."
        )
        raise InvalidInput("ST118", msg, entry=entry, root=str(root))
    return Code(id=objects.put_document(_document(entry, files)), entry=entry, files=files)


def load(objects: LocalObjects, code: Digest) -> Code:
    """The code with this id.

    Raises:
        Corrupt: ST123, the object is no code, or it holds a name that a snapshot would not have written.
    """
    document = objects.get_document(code)
    entry, rows = document.get("entry"), document.get("files")
    if document.get("kind") != "code" or not isinstance(entry, str) or not isinstance(rows, list):
        _corrupt(code, f"expected a code document, got kind {document.get('kind')!r}")
    files = tuple(_file(code, row) for row in rows)
    paths = [file.path for file in files]
    if paths != sorted(set(paths)) or entry.removeprefix(_HERE) not in paths:
        _corrupt(code, "its files are not sorted, one stands twice, or the entry is none of them")
    return Code(id=code, entry=entry.removeprefix(_HERE), files=files)


def checkout(objects: LocalObjects, code: Digest, dest: Path) -> Path:
    """The folder `dest` with the files of `code`, byte for byte; it appears whole or not at all.

    When `dest` is there already with the same files nothing is written; further files in it (caches) don't matter.

    Raises:
        Conflict: ST124, `dest` holds other content under one of the names: nothing of it is touched.
        Corrupt: ST123, a name in the manifest leads outside `dest`; nothing is written.
        Unavailable: as `LocalObjects.get`; the disk is full or refuses.
    """
    wanted = load(objects, code)
    if _occupied(dest):
        _check_same(wanted, dest)
        return dest
    temporary = dest.parent / f".{dest.name}-{uuid.uuid4().hex}"
    try:
        with disk(f"check out code {code[:12]} to {dest}"):
            temporary.mkdir(parents=True)
            for file in wanted.files:
                _write(temporary, file, objects.get(file.digest))
            try:
                temporary.rename(dest)
            except OSError:
                # Another process may have been faster: then its folder has to be the same as ours.
                if not _occupied(dest):
                    raise
                _check_same(wanted, dest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return dest


def files_changed(objects: LocalObjects, a: Digest, b: Digest) -> Changes:
    """Which paths code `b` adds to `a`, removes from it, and holds with another content or mode."""
    old = {file.path: (file.digest, file.mode) for file in load(objects, a).files}
    new = {file.path: (file.digest, file.mode) for file in load(objects, b).files}
    return Changes(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(path for path in old.keys() & new.keys() if old[path] != new[path])),
    )


def text_diff(objects: LocalObjects, a: Digest, b: Digest, path: str) -> str:
    """A unified diff of one file from code `a` to `b`; empty when it is the same, one sentence when it is not text.

    Raises:
        NotFound: ST125, neither holds such a file.
    """
    old, new = (next((f for f in load(objects, code).files if f.path == path), None) for code in (a, b))
    if old is None and new is None:
        msg = f"Comparing {path!r}: neither code {a[:12]} nor {b[:12]} holds it. `staytrue diff` lists the files."
        raise NotFound("ST125", msg, path=path)
    texts = [b"" if file is None else objects.get(file.digest) for file in (old, new)]
    names = ["/dev/null" if file is None else f"{side}/{path}" for side, file in (("a", old), ("b", new))]
    if texts[0] == texts[1] and old is not None and new is not None:
        return ""
    try:
        before, after = (text.decode().splitlines(keepends=True) for text in texts)
    except UnicodeDecodeError:
        return f"{path} is not text: {len(texts[0])} bytes before, {len(texts[1])} after.\n"
    lines = unified_diff(before, after, names[0], names[1])
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def training_code(objects: LocalObjects, code: Code, *, entry: str | None = None) -> Digest:
    """What a training can see of `code`: equal for codes that differ in docs, tests, comments or layout only.

    What counts is decided in `kernel/training_code.py`. It is kept as a document that names each counted file, so that it
    can be said later which of them made a training necessary. `entry` is the path of the app's module, where it is not
    `code.entry`.

    Raises:
        InvalidInput: ST117, a file that counts is not Python; it names file and line. ST118, no such entry.
    """
    files = {file.path: file.digest for file in code.files}
    entry = entry or code.entry
    if entry not in files:
        msg = f"Reading what training can see: {entry!r} is no file of code {code.id[:12]}. Name the app's module."
        raise InvalidInput("ST118", msg, entry=entry, code_id=code.id)
    sources = {path: objects.get(name) for path, name in files.items() if path.endswith(".py") or path == entry}
    others = [path for path in files if path not in sources]
    seen = seen_by_training(sources, others, entry=entry)
    counted = {path: objects.put(form.encode()) for path, form in seen.python.items()}
    counted |= {path: files[path] for path in seen.bytes_of}
    return objects.put_document({"kind": "training_code", "files": {_HERE + path: counted[path] for path in counted}})


# In a document, 64 hex digits alone are a reference to an object; a file may well have such a name (caches do).
_HERE = "./"


def _document(entry: str, files: tuple[File, ...]) -> dict[str, Any]:
    rows = [[_HERE + file.path, file.mode, file.size, file.digest] for file in files]
    return {"kind": "code", "entry": _HERE + entry, "files": rows}


def _file(code: Digest, row: object) -> File:
    match row:
        case [str(name), "644" | "755" as mode, int(size), str(named)] if name.startswith(_HERE) and is_digest(named):
            path = name.removeprefix(_HERE)
            wrong = _why_not_a_path(path)
            if wrong is not None:
                _corrupt(code, f"it holds the name {path!r}, which {wrong}")
            return File(path=path, mode=mode, size=size, digest=Digest(named))
        case _:
            return _corrupt(code, f"it holds a file written as {row!r:.80}")


def _corrupt(code: Digest, why: str) -> NoReturn:
    msg = f"Reading code {code[:12]}: {why}. Nothing was written. Run `staytrue verify`."
    raise Corrupt("ST123", msg, code_id=code, why=why)


def _why_not_a_path(path: str) -> str | None:
    """Why `path` must be neither kept nor written; None when it is a plain relative path on every platform."""
    if path != normalize("NFC", path):
        return "is not in Unicode's composed form (NFC)"
    if re.search(r"[\x00-\x1f\x7f\\\ud800-\udfff]", path):
        return "holds a backslash, a control character or bytes that are no UTF-8"
    if re.match(r"[A-Za-z]:", path):
        return "begins with a drive letter"
    # Windows drops trailing dots and spaces, so `.. ` is `..` there.
    if any(part.rstrip(". ") == "" for part in path.split("/")):
        return "holds an empty name, a '.' or a '..'"
    return None


# Never code, whatever .gitignore says: what tools write beside it, other people's packages, and secrets.
_NEVER = re.compile(
    r"\.git|\.hg|\.svn|\.staytrue|\.venv|venv|node_modules|__pycache__|.*\.py[co]|.*\.egg-info|\.eggs|\.ipynb_checkpoints"
    r"|\.cache|\.(?:mypy|pytest|ruff|import_linter)_cache|\.hypothesis|\.tox|\.nox|\.coverage|htmlcov|\.idea|\.vscode"
    r"|\.DS_Store|Thumbs\.db|\.env(?:\..*)?|.*\.swp|.*~|\.#.*"
)


class _Walk:
    """The files below a folder that are code, as (path to keep, where it lies)."""

    def __init__(self, root: Path, store: Path) -> None:
        self._root = root
        self._store = store

    def files(self) -> Iterator[tuple[str, Path]]:
        yield from self._folder(self._root, "", (), (self._root,))

    def _folder(
        self, folder: Path, prefix: str, above: tuple[Rule, ...], inside: tuple[Path, ...]
    ) -> Iterator[tuple[str, Path]]:
        """`above`: the rules of the folders around this one. `inside`: where they and it really lie."""
        names = _names(folder, prefix)
        found = above
        if ".gitignore" in names:
            text = _read(folder / ".gitignore", f"{prefix}.gitignore").decode(errors="replace")
            found += rules(normalize("NFC", text), prefix.rstrip("/"))
        for name in names:
            place, path = folder / name, normalize("NFC", prefix + name)
            is_folder = place.is_dir()
            if _NEVER.fullmatch(name) or ignored(path, found, is_folder=is_folder):
                continue
            real = self._real(place, path, inside)
            if real is None or real == self._store:
                continue
            if is_folder and not (place / "pyvenv.cfg").exists():
                yield from self._folder(place, f"{path}/", found, (*inside, real))
            elif real.is_file():
                _check_name(path)
                yield path, place

    def _real(self, place: Path, path: str, inside: tuple[Path, ...]) -> Path | None:
        """Where `place` really lies; None when that is a place that is never code."""
        if not place.is_symlink():
            return inside[-1] / place.name
        try:
            real = place.resolve(strict=True)
        except (OSError, RuntimeError):
            self._refuse_link(place, path, "leads nowhere")
        if not real.is_relative_to(self._root):
            self._refuse_link(place, path, f"leads out of {self._root}")
        if real in inside:
            self._refuse_link(place, path, "leads in a circle")
        return None if any(map(_NEVER.fullmatch, real.relative_to(self._root).parts)) else real

    def _refuse_link(self, place: Path, path: str, why: str) -> NoReturn:
        target = str(place.readlink())
        msg = f"Reading the app's files: the link {path!r} -> {target!r} {why}. Copy the file here, or ignore the link."
        raise InvalidInput("ST120", msg, path=path, target=target) from None


def _names(folder: Path, path: str) -> list[str]:
    try:
        return sorted(place.name for place in folder.iterdir())
    except OSError as exc:
        _unreadable(path, exc)


def _check_name(path: str) -> None:
    wrong = _why_not_a_path(path)
    if wrong is not None:
        shown = path.encode(errors="surrogateescape")
        msg = f"Reading the app's files: the name {shown!r} {wrong}. Rename the file, or name its folder in .gitignore."
        raise InvalidInput("ST122", msg, path=ascii(path), why=wrong)


def _keep(objects: LocalObjects, path: str, place: Path) -> File | None:
    """The file, kept; None when it was deleted since it was seen."""
    try:
        status = place.stat()
        if status.st_size > FILE_LIMIT_BYTES:
            size = f"{status.st_size / 1e6:.0f} MB, more than {FILE_LIMIT_BYTES / 1e6:.0f} MB"
            msg = f"Reading the app's files: {path!r} has {size}. Name it in .gitignore, or give it as a source."
            raise InvalidInput("ST121", msg, path=path, size_bytes=status.st_size, limit_bytes=FILE_LIMIT_BYTES)
        data = _read(place, path)
    except FileNotFoundError:
        return None
    mode: Mode = "755" if status.st_mode & stat.S_IXUSR else "644"
    return File(path=path, mode=mode, size=len(data), digest=objects.put(data))


def _read(place: Path, path: str) -> bytes:
    try:
        return place.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as exc:
        _unreadable(path, exc)


def _unreadable(path: str, exc: OSError) -> NoReturn:
    msg = f"Reading the app's files: {path!r} can't be read: {exc.strerror}. Check its rights, or ignore it."
    raise InvalidInput("ST119", msg, path=path, reason=exc.strerror) from exc


def _occupied(dest: Path) -> bool:
    return dest.is_symlink() or dest.is_file() or (dest.is_dir() and any(dest.iterdir()))


def _check_same(wanted: Code, dest: Path) -> None:
    """Raises unless `dest` holds every file of `wanted`."""
    for file in wanted.files:
        place = dest.joinpath(*file.path.split("/"))
        if not _is_same(file, place):
            msg = (
                f"Checking out code {wanted.id[:12]}: {dest} is there, but its {file.path!r} is missing or differs. "
                "Delete that folder if nobody needs it, or check out to another one."
            )
            raise Conflict("ST124", msg, dest=str(dest), path=file.path)


def _is_same(file: File, place: Path) -> bool:
    try:
        mode = "755" if place.stat().st_mode & stat.S_IXUSR else "644"
        same_mode = mode == file.mode or os.name == "nt"
        return same_mode and place.stat().st_size == file.size and digest(place.read_bytes()) == file.digest
    except OSError:
        return False


def _write(folder: Path, file: File, data: bytes) -> None:
    place = folder.joinpath(*file.path.split("/"))
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("xb") as out:
        out.write(data)
        out.flush()
        # On disk before the folder gets its name: a power cut must not leave a finished-looking folder of empty files.
        sync_file(out.fileno())
    place.chmod(int(file.mode, 8))
