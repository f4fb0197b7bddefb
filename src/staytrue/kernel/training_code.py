"""What a training can see of an app's code: so that a change to docs, tests, fetching or predicting trains nothing.

Counted are, of the entry module, the functions given to `@app.train`, `@app.save` and `@app.load`, whatever they reach
by name, and every top-level statement that does something (other than a call on the app itself); of the other modules,
those that counted code imports, whole; and of the other files, by their bytes, those that a text in counted code may
mean: so a note, a log or a data file that only a source reads trains nothing. Python code counts in a normal form of
its syntax tree, in which comments and layout are gone and which is the same under every Python version.

The error that must not happen is a changed training that looks unchanged, since it would serve a stale model. So what
can't be followed (a computed import, `exec`, a subprocess, a look into a folder) counts everything but docs and tests.
The other error, one training too many, costs only time.
"""

from __future__ import annotations

import ast
import re
from copy import copy
from dataclasses import dataclass
from itertools import chain
from posixpath import basename, dirname
from typing import TYPE_CHECKING

from staytrue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

__all__ = ["Seen", "changes_nothing", "normal_form", "seen_by_training"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What training sees: the normal form of each counted Python file, and the files that count by their bytes."""

    python: Mapping[str, str]
    bytes_of: tuple[str, ...]


def seen_by_training(sources: Mapping[str, bytes], others: Collection[str], *, entry: str) -> Seen:
    r"""What a training of the app in `entry` can see.

    Args:
        sources: the app's Python files, by path relative to its folder.
        others: the paths of all its other files.
        entry: the path of the app's module; one of `sources`.

    Raises:
        InvalidInput: ST117, a file that counts is not Python; it names file and line.

    Example:
        >>> app = b"@app.train\ndef fit(rows):\n    return len(rows)\n\n@app.data()\ndef rows(): ..."
        >>> seen = seen_by_training({"app.py": app}, ["README.md", "cities.csv"], entry="app.py")
        >>> print(seen.python["app.py"].count("FunctionDef("), seen.bytes_of)
        1 ()
    """
    counted = _Counted(sources, entry)
    counted.close()
    anything = counted.is_dynamic()
    if anything:
        for path in sources:
            if not _is_test(path):
                counted.add_module(path)
        counted.close()
    named = counted.named()
    for path in sources:
        if _is_named(path, named):
            counted.add_module(path)
    counted.close()
    return Seen(
        python=counted.normal_forms(),
        bytes_of=tuple(
            sorted(
                path
                for path in others
                if _is_named(path, named) or ((anything or counted.looks_into_folders()) and not _is_left_out(path))
            )
        ),
    )


def normal_form(tree: ast.AST) -> str:
    """A syntax tree as text: equal for equal code, whatever its layout and comments and under every Python version.

    `ast.dump` is not used: what it leaves out changed in 3.13, and its fields grow with the language. Here a field that
    is absent or empty is left out, so a new field changes nothing for code that doesn't use it.

    Example:
        >>> normal_form(ast.parse("x = (1)  # one")) == normal_form(ast.parse("x=1"))
        True
    """
    # An explicit stack: `a + b + c + ...` is a tree as deep as it is long, deeper than Python's recursion goes.
    written: list[str] = []
    pending: list[ast.AST | str] = [tree]
    while pending:
        here = pending.pop()
        if isinstance(here, str):
            written.append(here)
        else:
            pending.extend(reversed(list(_written(here))))
    return "".join(written)


def changes_nothing(path: str, old: bytes | None, new: bytes | None) -> bool:
    """Whether a change of one file can change no answer: it is documentation or a test, or only comments and layout differ.

    Args:
        old, new: its bytes; None where there is no such file.

    Example:
        >>> changes_nothing("app.py", b"x = 1", b"x = (1)  # one"), changes_nothing("app.py", b"x = 1", b"x = 2")
        (True, False)
        >>> changes_nothing("README.md", None, b"# New"), changes_nothing("cities.csv", b"a", b"b")
        (True, False)
    """
    if _is_left_out(path) or _is_test(path):
        return True
    if not path.endswith(".py") or old is None or new is None:
        return False
    try:
        return normal_form(ast.parse(old)) == normal_form(ast.parse(new))
    except (SyntaxError, ValueError):
        return False


# Fields that say where a name stands or how it was written, not what the code does.
_NOT_MEANING = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


def _written(node: ast.AST) -> Iterator[ast.AST | str]:
    """One node's text, its children still as nodes."""
    if isinstance(node, ast.Constant):
        yield f"{type(node.value).__name__}:{_constant(node.value)}"
        return
    yield f"{type(node).__name__}("
    for name, value in ast.iter_fields(node):
        if name in _NOT_MEANING or value is None or value == []:
            continue
        if isinstance(node, ast.JoinedStr):
            value = _joined(node)  # noqa: PLW2901 - the field's value in its one spelling
        elif isinstance(value, ast.JoinedStr) and name == "format_spec" and not _joined(value):
            continue
        yield f"{name}="
        yield from _value(value)
        yield ","
    yield ")"


def _value(value: object) -> Iterator[ast.AST | str]:
    if isinstance(value, ast.AST):
        yield value
    elif isinstance(value, list):
        yield "["
        for item in value:
            yield from _value(item)
            yield ","
        yield "]"
    else:
        yield _constant(value)


def _constant(value: object) -> str:
    # ascii() and not repr(): which characters repr() escapes changes with the Unicode tables of the Python version.
    return format(value, "x") if type(value) is int else ascii(value)


def _joined(node: ast.JoinedStr) -> list[ast.expr]:
    """An f-string's pieces, neighbouring texts in one and empty ones gone: Python versions split them differently."""
    pieces: list[ast.expr] = []
    for piece in node.values:
        inner = _joined(piece) if isinstance(piece, ast.JoinedStr) else [piece]
        for one in inner:
            last = pieces[-1] if pieces else None
            if not (isinstance(one, ast.Constant) and isinstance(one.value, str)):
                pieces.append(one)
            elif isinstance(last, ast.Constant) and isinstance(last.value, str):
                pieces[-1] = ast.Constant(last.value + one.value)
            elif one.value:
                pieces.append(one)
    return pieces


_LOOKS_INTO_FOLDERS = frozenset(
    {"iterdir", "glob", "iglob", "rglob", "listdir", "scandir", "walk", "environ", "getenv"}
)


class _Counted:
    """The Python code that counts: parts of the entry module, and whole modules; grows until `close` finds no more."""

    def __init__(self, sources: Mapping[str, bytes], entry: str) -> None:
        self._sources = sources
        self._entry = entry
        registering = any(word in text for text in sources.values() for word in (b"__init_subclass__", b"metaclass="))
        reader = _Reader(
            _parse(sources[entry], entry),
            local_modules={name for base in self._bases() for name in _modules_in(base, sources)},
            classes_register=registering,
        )
        self._parts = _needed(list(reader.parts()))
        self._whole: dict[str, ast.Module] = {}
        self._unfollowed: list[tuple[str, ast.AST]] = [(entry, part.node) for part in self._parts]
        self._local_names: set[str] = set()
        self._add_packages_of(entry)

    def add_module(self, path: str) -> None:
        """Count the whole file, and the packages around it, whose `__init__.py` runs first."""
        if path not in self._whole:
            self._whole[path] = _parse(self._sources[path], path)
            self._unfollowed.append((path, self._whole[path]))
            self._add_packages_of(path)

    def close(self) -> None:
        """Follow the imports of counted code until nothing new counts."""
        while self._unfollowed:
            importer, node = self._unfollowed.pop()
            for one in _imports(node):
                found = self._files_of(one, importer)
                if found:
                    self._local_names.update(one.binds)
                for path in found:
                    self.add_module(path)

    def is_dynamic(self) -> bool:
        """Whether counted code may run other code in a way that names don't show."""
        return any(_is_dynamic(node, self._local_names) for top in self._nodes() for node in ast.walk(top))

    def looks_into_folders(self) -> bool:
        """Whether counted code may find files whose names it does not hold."""
        attributes = (n.attr for top in self._nodes() for n in ast.walk(top) if isinstance(n, ast.Attribute))
        names = (n.id for top in self._nodes() for n in ast.walk(top) if isinstance(n, ast.Name))
        return any(name in _LOOKS_INTO_FOLDERS for name in chain(attributes, names))

    def named(self) -> frozenset[str]:
        """The names of files, folders and suffixes that texts in counted code may mean."""
        texts = chain.from_iterable(_texts(node) for node in self._nodes())
        return frozenset(chain.from_iterable(re.split(r"[/\\*?]+", text) for text in texts))

    def normal_forms(self) -> dict[str, str]:
        forms = {path: normal_form(tree) for path, tree in self._whole.items()}
        forms.setdefault(self._entry, "\n".join(normal_form(part.node) for part in self._parts))
        return dict(sorted(forms.items()))

    def _bases(self) -> list[str]:
        """The folders in which an import of the app's own modules may be found."""
        return [dirname(self._entry), "", "src"]

    def _nodes(self) -> Iterator[ast.AST]:
        yield from (part.node for part in self._parts)
        yield from self._whole.values()

    def _add_packages_of(self, path: str) -> None:
        folder = dirname(path)
        while folder:
            if f"{folder}/__init__.py" in self._sources:
                self.add_module(f"{folder}/__init__.py")
            folder = dirname(folder)

    def _files_of(self, one: _Import, importer: str) -> set[str]:
        """The app's files that an import may load. Where a name could be found in two places, both count."""
        if one.level:
            base = dirname(importer)
            for _ in range(one.level - 1):
                base = dirname(base)
            bases = [base]
        else:
            bases = self._bases()
        parts = one.module.split(".") if one.module else []
        candidates = set()
        for base in bases:
            prefixes = [
                "/".join(filter(None, [base, *parts[:count]])) for count in range(1 if parts else 0, len(parts) + 1)
            ]
            candidates.update(prefixes)
            candidates.update(f"{prefixes[-1]}/{name}".removeprefix("/") for name in one.names)
            if "*" in one.names:
                candidates.update(path[:-3] for path in self._sources if dirname(path) == prefixes[-1])
        files = {file for path in candidates for file in (f"{path}.py", f"{path}/__init__.py".removeprefix("/"))}
        return {file for file in files if file in self._sources}


def _modules_in(base: str, paths: Iterable[str]) -> set[str]:
    prefix = f"{base}/" if base else ""
    inside = (path.removeprefix(prefix) for path in paths if path.startswith(prefix))
    return {path.partition("/")[0].removesuffix(".py") for path in inside}


@dataclass(frozen=True, kw_only=True)
class _Import:
    module: str
    names: tuple[str, ...]
    level: int
    binds: tuple[str, ...]


def _imports(top: ast.AST) -> Iterator[_Import]:
    """Every import in `top`, those inside functions too."""
    for node in ast.walk(top):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(module=alias.name, names=(), level=0, binds=(_bound_by(alias),))
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            binds = tuple(_bound_by(alias) for alias in node.names)
            yield _Import(module=node.module or "", names=names, level=node.level, binds=binds)


def _bound_by(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


# Modules and functions through which code runs that no import names.
_DYNAMIC_MODULES = frozenset({"importlib", "runpy", "pkgutil", "imp", "zipimport", "subprocess"})
_HARMLESS_MODULES = frozenset({"importlib.metadata", "importlib.resources"})
_DYNAMIC_NAMES = frozenset({"exec", "eval", "compile", "globals", "__import__"})
_DYNAMIC_ATTRIBUTES = re.compile(
    r"(?:\w+\.)?(?:import_module|create_subprocess_\w+)|os\.(?:system|popen|exec\w+|spawn\w+|posix_spawnp?)"
    r"|sys\.(?:modules|path|meta_path|path_hooks)|builtins\.\w+"
)


def _is_dynamic(node: ast.AST, local_names: Collection[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _DYNAMIC_NAMES
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return _DYNAMIC_ATTRIBUTES.fullmatch(f"{owner}.{name}") is not None
        case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id=owner), name, *_]):
            return owner in local_names and not isinstance(name, ast.Constant)
        case ast.Import(names=aliases):
            return any(_is_dynamic_module(alias.name) for alias in aliases)
        case ast.ImportFrom(module=str(module), names=aliases, level=0):
            return any(
                _is_dynamic_module(f"{module}.{alias.name}")
                or _DYNAMIC_ATTRIBUTES.fullmatch(f"{module}.{alias.name}") is not None
                for alias in aliases
            )
        case _:
            return False


def _is_dynamic_module(name: str) -> bool:
    harmless = any(name == module or name.startswith(f"{module}.") for module in _HARMLESS_MODULES)
    return name.partition(".")[0] in _DYNAMIC_MODULES and not harmless


def _texts(top: ast.AST) -> Iterator[str]:
    """The texts that code in `top` uses; a docstring is none of them."""
    unused = {id(node.value) for node in ast.walk(top) if isinstance(node, ast.Expr)}
    for node in ast.walk(top):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in unused:
            yield node.value


# What is left out by its kind. Locks and requirements are here since the environment's versions are in the recipe.
_LEFT_OUT_FOLDERS = frozenset({"docs", "tests"})
_LEFT_OUT = re.compile(
    r".*\.(?:md|rst|ipynb|lock|pyi)|(?:readme|licen[cs]e|changelog|contributing|authors|notice)(?:\..*)?"
    r"|pyproject\.toml|setup\.cfg|tox\.ini|pytest\.ini|mypy\.ini|ruff\.toml|py\.typed|(?:requirements|constraints).*\.txt"
    r"|makefile|dockerfile.*|(?:docker-)?compose.*\.ya?ml|jenkinsfile|azure-pipelines\.ya?ml",
    re.IGNORECASE,
)


def _is_left_out(path: str) -> bool:
    *folders, name = path.split("/")
    hidden = any(part.startswith(".") for part in (*folders, name))
    return hidden or not _LEFT_OUT_FOLDERS.isdisjoint(folders) or _LEFT_OUT.fullmatch(name) is not None


def _is_test(path: str) -> bool:
    *folders, name = path.split("/")
    return "tests" in folders or re.fullmatch(r"test_.*\.py|.*_test\.py|conftest\.py", name) is not None


def _is_named(path: str, named: Collection[str]) -> bool:
    name = basename(path)
    if name.endswith(".py"):
        return name in named
    suffix = "." + name.rpartition(".")[2]
    return suffix in named or any(part in named for part in path.split("/"))


def _parse(source: bytes, path: str) -> ast.Module:
    try:
        return ast.parse(source, filename=path)
    except SyntaxError as exc:
        line, why = exc.lineno or 1, exc.msg
        cause: Exception = exc
    except (ValueError, RecursionError, MemoryError) as exc:
        line, why = 1, str(exc) or type(exc).__name__
        cause = exc
    msg = f"Reading what training can see: {path}, line {line}, is not Python: {why}. Correct it, or ignore the file."
    raise InvalidInput("ST117", msg, path=path, line=line, why=why) from cause


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A top-level statement of the entry module; `acts` when it counts though nothing asks for the names it binds."""

    node: ast.AST
    binds: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    acts: bool = False


def _needed(parts: list[_Part]) -> list[_Part]:
    """The parts that training can see, in the order of the file: those that act, and what these reach by name."""
    counted = {index for index, part in enumerate(parts) if part.acts}
    needed: set[str] = set()
    fresh = set(counted)
    while fresh:
        needed.update(*(parts[index].reads for index in fresh))
        fresh = {
            index for index, part in enumerate(parts) if index not in counted and not needed.isdisjoint(part.binds)
        }
        counted |= fresh
    return [parts[index] for index in sorted(counted)]


_TRAINING_ROLES = frozenset({"train", "save", "load"})
_ROLES = _TRAINING_ROLES | {"data", "predict"}
# The settings of a source that change which columns a training is given; how and when rows are fetched does not.
_SOURCE_SETTINGS = frozenset({"label", "features"})
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class _Reader:
    """Reads the entry module's statements as parts."""

    def __init__(self, tree: ast.Module, *, local_modules: Collection[str], classes_register: bool) -> None:
        self._body = tree.body
        self._apps = _app_names(tree)
        self._classes_register = classes_register
        self._read_somewhere = frozenset(chain.from_iterable(_free_names(statement) for statement in tree.body))
        imports = chain.from_iterable(map(_imports, tree.body))
        self._foreign = frozenset(
            name
            for one in imports
            if not one.level and one.module.partition(".")[0] not in local_modules
            for name in one.binds
        )

    def parts(self) -> Iterator[_Part]:
        for index, statement in enumerate(self._body):
            match statement:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    yield from self._definition(statement)
                case ast.Import() | ast.ImportFrom():
                    yield self._import(statement)
                case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                    yield self._assignment(statement)
                case ast.Expr(value=ast.Constant()):
                    yield _Part(node=statement, binds=frozenset({"__doc__"} if index == 0 else ()))
                case ast.Expr(value=value) if (role := self._role(value)) is not None:
                    # `app.policy(...)` is the loop's matter; `app.train(fit)` names a function like a decorator.
                    reads = self._reads_beside_app(value)
                    yield _Part(node=statement, reads=reads, acts=role in _TRAINING_ROLES)
                case ast.Pass():
                    pass
                case ast.If(orelse=[]) if _is_main_guard(statement.test):
                    pass
                case _:
                    yield _Part(node=statement, binds=_bound_names(statement), reads=_free_names(statement), acts=True)

    def _definition(self, node: _Definition) -> Iterator[_Part]:
        own, for_training, settings = [], [], []
        for decorator in node.decorator_list:
            role = self._role(decorator)
            if role is None:
                own.append(decorator)
            elif role in _TRAINING_ROLES:
                for_training.append(decorator)
            else:
                settings += _source_settings(decorator) if role == "data" else []
        has_role = len(own) < len(node.decorator_list)
        reads = _free_names(_with_decorators(node, own)).union(*map(self._reads_beside_app, for_training))
        acts = bool(for_training) or (not has_role and self._acts_when_defined(node))
        shown = _with_decorators(node, [*for_training, *own])
        yield _Part(node=shown, binds=frozenset({node.name}), reads=reads, acts=acts)
        if settings:
            call = ast.Call(func=ast.Name(node.name, ast.Load()), args=[], keywords=settings)
            yield _Part(node=call, reads=frozenset().union(*map(_free_names, settings)), acts=True)

    def _acts_when_defined(self, node: _Definition) -> bool:
        """Whether defining it may do more than bind a name: a decorator or a base class of the app may register it."""
        if isinstance(node, ast.ClassDef) and self._classes_register and (node.bases or node.keywords):
            return True
        return any(self._root_name(decorator) not in self._foreign for decorator in node.decorator_list)

    def _import(self, node: ast.Import | ast.ImportFrom) -> _Part:
        binds = frozenset(_bound_by(alias) for alias in node.names)
        # An import whose name nobody reads is there for what it does (`enable_iterative_imputer`).
        acts = "*" in binds or binds.isdisjoint(self._read_somewhere)
        return _Part(node=node, binds=binds, acts=acts)

    def _assignment(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> _Part:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        binds, reads = _bound_names(node), _free_names(node)
        role = None if node.value is None else self._role(node.value)
        if node.value is not None and role is not None:
            return _Part(node=node, binds=binds, reads=self._reads_beside_app(node.value), acts=role in _TRAINING_ROLES)
        calls = any(isinstance(child, ast.Call | ast.Await) for child in ast.walk(node))
        unread = binds.isdisjoint(self._read_somewhere)
        elsewhere = not all(_is_plain_target(target) for target in targets)
        return _Part(node=node, binds=binds, reads=reads, acts=elsewhere or (calls and unread))

    def _role(self, node: ast.expr) -> str | None:
        """The method of the app that `node` calls or names: `train` for `app.train` and for `app.train(...)`."""
        while True:
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in self._apps:
                    return attribute
                case ast.Call(func=inner) | ast.Attribute(value=inner):
                    node = inner
                case _:
                    return None

    def _reads_beside_app(self, node: ast.expr) -> frozenset[str]:
        return _free_names(node) - self._apps

    def _root_name(self, node: ast.expr) -> str | None:
        while isinstance(node, ast.Call | ast.Attribute):
            node = node.func if isinstance(node, ast.Call) else node.value
        return node.id if isinstance(node, ast.Name) else None


def _source_settings(decorator: ast.expr) -> list[ast.keyword]:
    keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
    return [keyword for keyword in keywords if keyword.arg is None or keyword.arg in _SOURCE_SETTINGS]


def _with_decorators(node: _Definition, decorators: list[ast.expr]) -> _Definition:
    shown = copy(node)
    shown.decorator_list = decorators
    return shown


def _app_names(tree: ast.Module) -> frozenset[str]:
    """The names that hold an `App`; where none is made here (it may be imported), the names used like one."""
    made: set[str] = set()
    used: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Assign(value=ast.Call(func=ast.Name(id="App") | ast.Attribute(attr="App")), targets=targets):
                made.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(
                value=ast.Call(func=ast.Name(id="App") | ast.Attribute(attr="App")), target=ast.Name(id=name)
            ):
                made.add(name)
            case ast.FunctionDef(decorator_list=decorators) | ast.AsyncFunctionDef(decorator_list=decorators):
                for decorator in decorators:
                    match decorator:
                        case (
                            ast.Attribute(value=ast.Name(id=name), attr=role)
                            | ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=role))
                        ) if role in _ROLES:
                            used.add(name)
    return frozenset(made or used)


def _is_main_guard(test: ast.expr) -> bool:
    match test:
        case ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()], comparators=[ast.Constant(value="__main__")]):
            return True
        case _:
            return False


def _is_plain_target(target: ast.expr) -> bool:
    if isinstance(target, ast.Tuple | ast.List):
        return all(_is_plain_target(element) for element in target.elts)
    return isinstance(target.value if isinstance(target, ast.Starred) else target, ast.Name)


def _bound_names(statement: ast.stmt) -> frozenset[str]:
    """The names that a top-level statement binds in the module."""
    return frozenset(_Scope(statement, in_module=True).bound)


def _free_names(node: ast.AST) -> frozenset[str]:
    """The names of the module that `node`, or code inside it, reads or rebinds."""
    return frozenset(_Scope(node, in_module=True).free())


class _Scope:
    """The names of one scope, as Python resolves them: a function's parameter `bookings` is not the module's."""

    def __init__(self, *tops: ast.AST, in_module: bool = False, parameters: ast.arguments | None = None) -> None:
        self._in_module = in_module
        self.bound: set[str] = set()
        self._loaded: set[str] = set()
        self._global: set[str] = set()
        if parameters is not None:
            self.bound.update(argument.arg for argument in _arguments(parameters))
        self._pending: list[ast.AST] = list(tops)
        while self._pending:
            self._visit(self._pending.pop())
        self.bound -= self._global

    def free(self) -> set[str]:
        """What the scope takes from outside."""
        return (self._loaded if self._in_module else self._loaded - self.bound) | self._global

    def _visit(self, node: ast.AST) -> None:
        match node:
            case ast.Name(id=name, ctx=ctx):
                (self._loaded if isinstance(ctx, ast.Load) else self.bound).add(name)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self.bound.add(node.name)
                self._visit_definition(node)
            case ast.Lambda(args=parameters, body=body):
                self._pending += [*parameters.defaults, *filter(None, parameters.kw_defaults)]
                self._loaded |= _Scope(body, parameters=parameters).free()
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._pending.append(node.generators[0].iter)
                self._loaded |= _Scope(*ast.iter_child_nodes(node)).free()
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                self.bound.update(_bound_by(alias) for alias in aliases)
            case ast.Global(names=names):
                self._global.update(names)
            case _:
                self._bind_pattern(node)
                self._pending.extend(ast.iter_child_nodes(node))

    def _visit_definition(self, node: _Definition) -> None:
        parameters = None if isinstance(node, ast.ClassDef) else node.args
        outside: list[ast.AST | None] = [*node.decorator_list]
        if isinstance(node, ast.ClassDef):
            outside += [*node.bases, *node.keywords]
        else:
            arguments = [argument.annotation for argument in _arguments(node.args)]
            outside += [*node.args.defaults, *node.args.kw_defaults, *arguments, node.returns]
        self._pending.extend(one for one in outside if one is not None)
        # A class's own names are not those of its methods: nothing that a class reads is taken as bound by it.
        inner = _Scope(*node.body, parameters=parameters, in_module=isinstance(node, ast.ClassDef))
        self._loaded |= inner.free() - {parameter.name for parameter in getattr(node, "type_params", ())}

    def _bind_pattern(self, node: ast.AST) -> None:
        name = getattr(node, "rest" if isinstance(node, ast.MatchMapping) else "name", None)
        if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar | ast.MatchMapping) and name is not None:
            self.bound.add(name)


def _arguments(parameters: ast.arguments) -> list[ast.arg]:
    """All parameters of a function, in no order that matters."""
    named = [*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs]
    return named + [star for star in (parameters.vararg, parameters.kwarg) if star is not None]
