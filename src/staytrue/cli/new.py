"""`staytrue new`: a new app from a template."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from staytrue.cli.screen import Screen
from staytrue.errors import Conflict, NotFound

__all__ = ["arguments", "make", "run", "templates"]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb."""
    parser.add_argument("dir", help="the folder to make")
    parser.add_argument(
        "--from", dest="template", default="pricing", metavar="NAME", help="which template (default: pricing)"
    )


def run(args: argparse.Namespace, screen: Screen) -> int:
    """Make the folder and say what to do next."""
    known = templates()
    if args.template not in known:
        raise NotFound(
            "ST132",
            f"No template is called {args.template!r}; there are {', '.join(sorted(known))}.",
            known=sorted(known),
        )
    place = Path(args.dir)
    files = make(known[args.template], place)
    screen.document({"dir": str(place), "template": args.template, "files": files})
    screen.say(f"Made {place} with {', '.join(files)}.")
    screen.say(f"Next: cd {place} && {_NEXT.get(args.template, 'look at app.py')}")
    return 0


_NEXT = {
    "calculator": "staytrue deploy && staytrue up",
    "pricing": "staytrue fetch --since 2015-04-01 && staytrue replay",
}
"""What to do first, by template."""


def templates() -> dict[str, Path]:
    """The folder of every template, by name: in the wheel, or in a checkout of the project."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / "examples", package.parents[1] / "examples"):
        found = {p.name: p for p in sorted(root.glob("*")) if (p / "app.py").is_file()}
        if found:
            return found
    return {}


def make(template: Path, place: Path) -> list[str]:
    """Copy a template to a new folder; the names of its files.

    Raises:
        Conflict: ST133, there is something at that place already.
    """
    if place.exists() and any(place.iterdir() if place.is_dir() else [place]):
        raise Conflict(
            "ST133",
            f"{place} is there already and not empty: nothing was written. Give another folder.",
            path=str(place),
        )
    place.mkdir(parents=True, exist_ok=True)
    files = [p for p in sorted(template.iterdir()) if p.is_file() and not p.name.startswith(".")]
    for file in files:
        shutil.copyfile(file, place / file.name)
    return [file.name for file in files]
