"""`python -m staytrue`: the command line without the script."""

from staytrue.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
