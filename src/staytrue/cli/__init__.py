"""The command line: one file a verb. This one only finds the verb, runs it, and turns errors into words and exit codes.

Exit codes: 0 well, 1 unhealthy or refused by a gate, 2 wrong use, 3 not found, 4 conflict, 5 an engine or store is unavailable.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from gc import set_threshold

__all__ = ["VERBS", "main"]

VERBS = {
    "demo": "the whole loop on shipped real data, nothing to configure",
    "new": "a new app from a template, with its test",
    "data": "what is there, what is in quarantine, and what is to become of it",
    "fetch": "ask the sources for new rows and hold them against their contract",
    "train": "train now, through the same gates",
    "check": "what CI runs on a change: tests, contract, backtest; a Markdown report",
    "deploy": "check the present code and send it",
    "replay": "policies side by side over the past: loss, retrains, bad days, cost",
    "up": "serve the champion, log every prediction, join the labels, until Ctrl-C",
    "predict": "score a Parquet file of any size, in bounded memory; goes on after a kill",
    "status": "is it right now? what changed? what is to blame? what happens next?",
    "log": "what happened, and why",
    "jobs": "what runs now, what ran, and what it printed",
    "show": "one release, event or table",
    "why": "what a single prediction rests on: release, near rows, what moved it, what others say",
    "label": "which predictions to label next; labels from a file",
    "diff": "two releases compared: code, data, environment, params, model, scores",
    "blame": "which change made it worse, found by re-running mixtures of two releases; --apply repairs it",
    "revert": "a new release with code, data or model taken from an older one",
    "refresh": "ask the sources, and retrain the champion's own code on the newest rows",
    "undo": "take back what the loop decided last by itself",
    "pause": "the loop begins nothing until `resume`; the champion goes on answering",
    "resume": "the loop goes on",
    "promote": "make the challenger champion now",
    "reject": "take the challenger off trial; the champion stays",
    "token": "who may ask the server for what: make, list and revoke tokens",
    "verify": "every object against its digest, every chain",
    "gc": "free what nothing refers to",
    "doctor": "what is wrong with this installation",
}
"""verb -> what it does. A verb is the module of its name; it is imported when it is called."""

_INTERRUPTED = 130
_OBJECTS_BETWEEN_COLLECTIONS = 500_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((a for a in arguments if not a.startswith("-")), None)
    parser = _parser()
    if verb not in VERBS:
        if verb is not None:
            parser.error(f"no verb {verb!r}; there are {', '.join(VERBS)}. The verb comes first")
        parser.parse_args(arguments)  # --help, --version, or an error
        parser.print_help()
        return 0 if not arguments else 2
    arguments.remove(verb)
    # What imports make stays: looking for garbage among it took a tenth of the time of a short command.
    set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    module = importlib.import_module(f"staytrue.cli.{verb}")
    own = argparse.ArgumentParser(prog=f"staytrue {verb}", description=VERBS[verb], allow_abbrev=False)
    module.arguments(own)
    _common(own)
    args = own.parse_args(arguments)
    return _run(module, args)


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    listed = "\n".join(f"  {name:<{width}}  {what}" for name, what in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="staytrue",
        usage="staytrue VERB [options]",
        description="Keeps a machine-learning app true after it ships.",
        epilog=f"verbs:\n{listed}\n\n`staytrue VERB --help` tells more. Every verb takes --app, --store and --json.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    from staytrue import __version__

    parser.add_argument("--version", action="version", version=f"staytrue {__version__}")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--app", metavar="PATH[:NAME]", help="the app's file (default: app.py, or STAYTRUE_APP)")
    parser.add_argument(
        "--store", metavar="DIR", help="where everything is kept (default: .staytrue, or STAYTRUE_STORE)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, progress on stderr")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the stack trace of an error")


def _run(module: object, args: argparse.Namespace) -> int:
    from staytrue.cli.screen import Screen
    from staytrue.errors import StaytrueError

    screen = Screen(as_json=args.json)
    try:
        return int(module.run(args, screen))  # type: ignore[attr-defined]
    except StaytrueError as exc:
        screen.error(exc)
        if args.verbose:
            raise
        return exc.exit_code
    except KeyboardInterrupt:
        screen.note("Stopped. What was acknowledged is kept; the same command goes on from there.")
        return _INTERRUPTED
    except BrokenPipeError:
        return 0
