"""What training can see: which edits train again and which do not."""

from __future__ import annotations

import ast
from hashlib import sha256

import pytest

from staytrue.errors import InvalidInput
from staytrue.kernel.training_code import normal_form, seen_by_training

APP = '''\
"""Rates of hotel rooms."""
import pandas as pd
from staytrue import App
from sources import connect
import charts
from features import encode

app = App("rates")
__version__ = "1.0"
RATE = 0.1
COLOUR = "red"
app.policy(window="90d")

def trees(depth):
    # how deep
    return [RATE] * depth

@app.data(time="at", key="id", label="rate", every="1d")
def bookings(since, until):
    return connect().read(since, until)

@app.train
def fit(bookings, params):
    """Fits."""
    return encode(bookings), trees(params["depth"])

@app.predict(metric="mae")
def quote(model, rows):
    charts.draw(COLOUR)
    return model.predict(rows)

if __name__ == "__main__":
    print(fit)
'''
FILES = {
    "app.py": APP,
    "features.py": "from lib import scale\ndef encode(rows):\n    return scale(rows)\n",
    "lib/__init__.py": "from .numbers import scale\n",
    "lib/numbers.py": "def scale(rows):\n    return rows\n",
    "lib/unused.py": "x = 1\n",
    "sources.py": "def connect():\n    return 1\n",
    "charts.py": "def draw(colour):\n    return colour\n",
    "test_app.py": "def test_fit():\n    assert 1\n",
    "tests/conftest.py": "x = 1\n",
}
OTHERS = ["README.md", "cities.csv", "docs/pic.png", "pyproject.toml", "tests/rows.csv", ".github/ci.yml", "look.ipynb"]


def seen(files=FILES, others=OTHERS, entry="app.py"):
    return seen_by_training({path: text.encode() for path, text in files.items()}, others, entry=entry)


def edited(path: str, old: str, new: str):
    assert old in FILES[path]
    return seen(FILES | {path: FILES[path].replace(old, new)})


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("app.py", "    # how deep\n", ""),
        ("app.py", "[RATE] * depth", "[ RATE ]*(depth)"),
        ("app.py", '"""Rates of hotel rooms."""', '"""Room rates."""'),
        ("app.py", "return model.predict(rows)", "return model.predict(rows) * 2"),
        ("app.py", 'metric="mae"', 'metric="rmse"'),
        ("app.py", 'COLOUR = "red"', 'COLOUR = "blue"'),
        ("app.py", "connect().read(since, until)", "connect().read(until, since)"),
        ("app.py", 'every="1d"', 'every="7d"'),
        ("app.py", 'window="90d"', 'window="30d"'),
        ("app.py", 'App("rates")', 'App("prices")'),
        ("app.py", '"1.0"', '"1.1"'),
        ("app.py", "print(fit)", "print(quote)"),
        ("app.py", "\n", "\r\n"),
        ("charts.py", "return colour", "return 1"),
        ("sources.py", "return 1", "return 2"),
        ("lib/unused.py", "x = 1", "x = 2"),
        ("test_app.py", "assert 1", "assert 2"),
        ("tests/conftest.py", "x = 1", "x = 2"),
    ],
)
def test_an_edit_that_training_cannot_see_changes_nothing(path, old, new):
    assert edited(path, old, new) == seen()


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("app.py", "encode(bookings), trees", "trees(1), trees"),
        ("app.py", '"""Fits."""', '"""Fits it."""'),
        ("app.py", "return [RATE] * depth", "return [RATE] * depth * 2"),
        ("app.py", "RATE = 0.1", "RATE = 0.2"),
        ("app.py", 'label="rate"', 'label="price"'),
        ("app.py", 'label="rate"', 'label="rate", features=["hotel"]'),
        ("app.py", "@app.data", 'pd.set_option("mode", 1)\n@app.data'),
        ("app.py", "@app.data", "import enable_hidden_imputer\n@app.data"),
        ("app.py", "@app.data", "RATES = {}\nRATES['a'] = 1\n@app.data"),
        ("features.py", "return scale(rows)", "return rows"),
        ("lib/__init__.py", "import scale", "import scale as scale2, scale"),
        ("lib/numbers.py", "return rows", "return rows * 2"),
    ],
)
def test_an_edit_of_what_training_runs_is_seen(path, old, new):
    assert edited(path, old, new) != seen()


def test_counted_are_the_modules_that_training_imports_and_the_files_that_it_names():
    # given, when
    named = FILES | {"features.py": FILES["features.py"] + "\nCITIES = 'cities.csv'\n"}
    # then
    assert list(seen().python) == ["app.py", "features.py", "lib/__init__.py", "lib/numbers.py"]
    assert seen().bytes_of == ()
    assert seen(named).bytes_of == ("cities.csv",)


@pytest.mark.parametrize("look", ["Path('.').iterdir()", "glob.glob('x')", "os.listdir()", "os.environ['X']"])
def test_a_training_that_looks_into_folders_sees_every_file_but_docs_and_tests(look):
    files = FILES | {"features.py": FILES["features.py"] + f"\nFOUND = lambda: {look}\n"}
    assert seen(files).bytes_of == ("cities.csv",)


def test_a_parameter_named_like_a_source_does_not_reach_the_source():
    # given: fit(bookings) takes rows; the function bookings() fetches them
    assert "connect" not in seen().python["app.py"]
    # when it is called by name from a helper, it counts
    called = FILES | {"app.py": APP.replace("return [RATE] * depth", "return bookings(1, 2)")}
    assert "sources.py" in seen(called).python


@pytest.mark.parametrize(
    "line",
    [
        "import importlib; importlib.import_module('charts')",
        "from importlib import import_module",
        "exec('x = 1')",
        "eval('1')",
        "globals()['quote']",
        "__import__('charts')",
        "import subprocess",
        "import os; os.system('python charts.py')",
        "import sys; sys.path.append('more')",
        "import features; getattr(features, str(params))",
    ],
)
def test_code_that_cannot_be_followed_makes_every_module_count_except_tests(line):
    dynamic = FILES | {"app.py": APP.replace('    """Fits."""\n', f"    {line}\n")}
    assert set(seen(dynamic).python) == {path for path in FILES if "test" not in path}


@pytest.mark.parametrize(
    "line", ["import importlib.metadata", "from importlib import resources", "rows.eval('a')", "re.compile('a')"]
)
def test_what_only_looks_dynamic_does_not(line):
    harmless = FILES | {"app.py": APP.replace('    """Fits."""\n', f"    {line}\n")}
    assert "charts.py" not in seen(harmless).python


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("open('README.md')", "README.md"),
        ("Path('docs').iterdir()", "docs/pic.png"),
        ("Path('.').glob('*.ipynb')", "look.ipynb"),
        ("open(f'{here}/tests/rows.csv')", "tests/rows.csv"),
    ],
)
def test_a_file_left_out_by_its_kind_counts_when_training_names_it(line, expected):
    naming = FILES | {"app.py": APP.replace('    """Fits."""\n', f"    {line}\n")}
    assert expected in seen(naming).bytes_of
    assert expected not in seen().bytes_of


def test_a_script_named_by_training_counts():
    naming = FILES | {"app.py": APP.replace('    """Fits."""\n', "    run('charts.py')\n")}
    assert "charts.py" in seen(naming).python


@pytest.mark.parametrize(
    "definition",
    [
        "@encode.register\ndef _(rows: int):\n    return {n}\n",
        "STEPS = []\ndef step(f):\n    STEPS.append(f)\n@step\ndef clip(rows):\n    return {n}\n",
        "try:\n    import fast\nexcept ImportError:\n    fast = {n}\n",
    ],
)
def test_a_definition_that_may_register_itself_counts(definition):
    one, two = (FILES | {"app.py": APP + definition.format(n=n)} for n in (1, 2))
    assert seen(one) != seen(two)


def test_a_class_counts_unasked_only_where_base_classes_register():
    plain = [FILES | {"app.py": f"{APP}class Clip(Step):\n    x = {n}\n"} for n in (1, 2)]
    registering = [files | {"steps.py": "class Step:\n    def __init_subclass__(cls): ..."} for files in plain]
    assert seen(plain[0]) == seen(plain[1])
    assert seen(registering[0]) != seen(registering[1])


def test_a_decorator_of_another_package_does_not_make_a_function_count():
    one, two = (
        FILES | {"app.py": f"from tenacity import retry\n{APP}@retry(3)\ndef ask():\n    return {n}\n"} for n in (1, 2)
    )
    assert seen(one) == seen(two)


@pytest.mark.parametrize("role", ["save", "load"])
def test_how_a_model_is_stored_counts(role):
    one, two = (FILES | {"app.py": f"{APP}@app.{role}\ndef way(x):\n    return {n}\n"} for n in (1, 2))
    assert seen(one) != seen(two)


def test_decorators_written_as_calls_are_understood():
    text = (
        "app = App('a')\ndef fit(rows):\n    return 1\ndef rows(a, b):\n    return 1\n"
        "app.train(fit)\napp.data(time='t')(rows)\n"
    )
    only = {"app.py": text}
    assert seen(only) != seen({"app.py": text.replace("def fit(rows):\n    return 1", "def fit(rows):\n    return 2")})
    assert seen(only) == seen(
        {"app.py": text.replace("def rows(a, b):\n    return 1", "def rows(a, b):\n    return 2")}
    )


def test_an_app_in_a_package_finds_its_relative_and_its_absolute_imports():
    files = {
        "shop/__init__.py": "",
        "shop/app.py": (
            "from . import near\nfrom ..shop.wide import x\nimport far.away\n"
            "@app.train\ndef fit(r):\n    return near, x, far\n"
        ),
        "shop/near.py": "",
        "shop/wide.py": "x = 1",
        "far/away.py": "import app_settings",
        "src/app_settings.py": "",
        "shop/unused.py": "",
    }
    assert set(seen(files, [], entry="shop/app.py").python) == set(files) - {"shop/unused.py"}


def test_a_syntax_error_in_code_that_counts_names_file_and_line():
    with pytest.raises(InvalidInput) as caught:
        seen(FILES | {"features.py": "x = 1\ndef broken(:\n"})
    assert (caught.value.code, caught.value.facts["path"], caught.value.facts["line"]) == ("ST117", "features.py", 2)


def test_a_syntax_error_in_code_that_does_not_count_is_no_matter():
    assert seen(FILES | {"charts.py": "def broken(:\n"}) == seen()


def test_a_very_long_expression_has_a_normal_form():
    tree = ast.parse("x = " + " + ".join(f"a{n}" for n in range(900)))
    assert normal_form(tree).count("BinOp(") == 899


EVERYTHING = '''
from __future__ import annotations
import os, sys as system
from . import near
x: int = 1
y = -1_000 + 0x1F + 1.5e300 + 2j + True * None
s = "a" 'b' f"{x}" f"{x!r:>{y}} {{}} {x:%H}" u"ü\\ud800"
b = b"\\x00" rb"\\d"
async def f(a, /, b=1, *c, d: int = 2, **e) -> int:
    async with open(a) as g, b: await g
    return [i for i in b if i async for j in i], {**e}, {1, 2}, (k := lambda: ...)
class C(Base, metaclass=M):
    """Doc."""
    @property
    def p(self): yield from self.q[1:2, ::3, ...]
def g():
    global x; nonlocal_ = 1
    try:
        assert x, "no"
    except* (ValueError, OSError) as exc:
        raise RuntimeError from exc
    else: pass
    finally: del x
    while not x < y <= 3 is None: break
    for i, *j in x: continue
    match x:
        case {"a": 1, **rest} | [1, *_, None] | C(p=1) as m if m: return 1 if x else 2
'''


def test_the_normal_form_is_the_same_under_every_python_version():
    # The digest was taken once and must hold under 3.11 to 3.14: else upgrading Python would train everything anew.
    assert (
        sha256(normal_form(ast.parse(EVERYTHING)).encode()).hexdigest()
        == "538fc22094cb0a56236fecc41e391d03ba011bade8c5804d21665e9dee7346fa"
    )
