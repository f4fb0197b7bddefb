"""Checks the links of every Markdown page, and renders the pages to site/.

    python scripts/docs.py --check     each relative link leads to a file, each #fragment to a heading
    python scripts/docs.py             the same, then HTML in site/, next to copies of the pictures

Standard library and markdown-it (which rich brings along): no documentation generator to install.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"

LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+(?:\([^()]*\))?)(?:\s+\"[^\"]*\")?\)")
CODE = re.compile(r"^(```|~~~).*?^\1\s*$|`[^`\n]*`", flags=re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", flags=re.MULTILINE)

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
pre, code {{ font: 14px/1.45 ui-monospace, monospace }}
pre {{ overflow-x: auto; padding: .8rem; border: 1px solid #8884; border-radius: 6px }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
td, th {{ border: 1px solid #8886; padding: .3rem .6rem; vertical-align: top }}
img {{ max-width: 100% }}
</style>
<nav>{nav}</nav>
<main>
{body}</main>
</html>
"""


def pages() -> list[Path]:
    """The Markdown that people read: the top folder and docs/, README first."""
    found = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "tests").glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
    return sorted(
        found, key=lambda path: (path.name != "README.md" or path.parent != ROOT, path.relative_to(ROOT).as_posix())
    )


def prose(page: Path) -> str:
    """The text without code, since brackets in code are no links and hashes no headings."""
    return CODE.sub(lambda match: "`code`" if match[1] is None else "", page.read_text(encoding="utf-8"))


def slug(heading: str) -> str:
    """The fragment of a heading, by the rule of the big code hosts."""
    words = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
    return words.replace(" ", "-")


def fragments(page: Path) -> set[str]:
    """What `#...` may name on this page."""
    text = re.sub(r"^(```|~~~).*?^\1\s*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in HEADING.findall(text)}


def broken_links(page: Path) -> list[str]:
    """One line per link of this page that leads nowhere in this repository; links to other sites are not followed."""
    broken = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            broken.append(f"{page.relative_to(ROOT)}: {link}: no such file")
        elif fragment and target.suffix == ".md" and fragment not in fragments(target):
            broken.append(f"{page.relative_to(ROOT)}: {link}: no such heading")
    return broken


def render(page: Path) -> str:
    """The page as HTML; links between Markdown pages become links between HTML pages."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(page.read_text(encoding="utf-8"))
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", slug(tokens[index + 1].content))
        for child in token.children or []:
            target = str(child.attrGet("href") or "")
            if child.type == "link_open" and ":" not in target:
                child.attrSet("href", re.sub(r"\.md(?=#|$)", ".html", target))
    up = "../" * (len(page.relative_to(ROOT).parts) - 1)
    nav = " · ".join(f'<a href="{up}{name}.html">{name}</a>' for name in top_names())
    title = html.escape(next(iter(HEADING.findall(page.read_text(encoding="utf-8"))), page.stem))
    return PAGE.format(title=title, nav=nav, body=parser.renderer.render(tokens, parser.options, {}))


def top_names() -> list[str]:
    """Pages in the top folder, which every page links to."""
    return [page.stem for page in pages() if page.parent == ROOT]


def build() -> None:
    """Write site/ anew."""
    shutil.rmtree(SITE, ignore_errors=True)
    for page in pages():
        target = SITE / page.relative_to(ROOT).with_suffix(".html")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(page), encoding="utf-8")
    for picture in (ROOT / "docs").rglob("*"):
        if picture.suffix in {".svg", ".png"}:
            copy = SITE / picture.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, copy)
    sys.stdout.write(f"{len(pages())} pages in {SITE.relative_to(ROOT)}/, start at {SITE / 'README.html'}\n")


def main() -> None:
    """Check, then build unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check the links")
    only_check = parser.parse_args().check
    broken = [line for page in pages() for line in broken_links(page)]
    if broken:
        sys.exit("\n".join(broken))
    if only_check:
        sys.stdout.write(f"{len(pages())} pages, all links lead somewhere\n")
    else:
        build()


if __name__ == "__main__":
    main()
