# Each target makes its own environment from `python3` alone: nothing to install first, nothing to activate.
# Another Python: PYTHON=python3.13 make test

PYTHON ?= python3
# `make demo DEMO_ARGS=...`, `make test TEST_ARGS="-k ledger"`, `make fault FAULT_ARGS=...`
DEMO_ARGS ?= --dir demo
TEST_ARGS ?=
FAULT_ARGS ?=
DRILL_ARGS ?=
BLAME_ARGS ?=
WHODUNNIT_ARGS ?=
BROWSER_ARGS ?=

need_demo = venv=$$($(PYTHON) scripts/bootstrap.py demo) && bin="$$venv/bin"
need_dev = venv=$$($(PYTHON) scripts/bootstrap.py dev) && bin="$$venv/bin"
need_browser = venv=$$($(PYTHON) scripts/bootstrap.py browser) && bin="$$venv/bin"

.DEFAULT_GOAL := help
.PHONY: help demo test slow browser-test screenshots lint check fault bench bench-serve bench-loop bench-health bench-page bench-blame drill drill-shop drill-harm drill-chaos whodunnit docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

demo:  ## months of real bookings live in a minute, with the page to look at, until Ctrl-C; leaves app and store in demo/
	@$(need_demo) && "$$bin/staytrue" demo $(DEMO_ARGS) && echo "(staytrue is $$bin/staytrue here)"

test:  ## the fast tests, with the examples in docstrings
	@$(need_dev) && "$$bin/python" -m pytest -q -n 2 --dist loadfile -m "not slow and not fault_long" tests src/staytrue examples $(TEST_ARGS)

slow:  ## the tests that take more than a few seconds each, a whole drill among them
	@$(need_dev) && "$$bin/python" -m pytest -q -m slow tests $(TEST_ARGS)

browser-test:  ## the page in a real Chromium, with pictures of all of it in build/browser; BROWSER_ARGS="-k keyboard"
	@$(need_browser) && OMP_NUM_THREADS=1 "$$bin/python" -m pytest -q -p no:randomly tests/browser $(BROWSER_ARGS)

screenshots:  ## the pictures of the page that README and docs show, from the demo's store, into docs/img
	@$(need_browser) && OMP_NUM_THREADS=1 "$$bin/python" scripts/screenshots.py

lint:  ## format, ruff, mypy --strict, layers, links in the docs
	@$(need_dev) && status=0; \
	"$$bin/ruff" format --check --quiet . || { echo "  -> $$bin/ruff format ."; status=1; }; \
	"$$bin/ruff" check --quiet --output-format concise . || status=1; \
	"$$bin/mypy" || status=1; \
	"$$bin/lint-imports" || status=1; \
	"$$bin/python" scripts/docs.py --check || status=1; \
	exit $$status

check: lint  ## everything a change has to pass: lint, then test
	@$(MAKE) --no-print-directory test

fault:  ## kill -9, power cuts, full disks, at every step; 500 simulated worlds; takes an hour
	@$(need_dev) && "$$bin/python" -m pytest -q -p no:randomly -m "fault_long or not fault_long" tests/fault tests/simulation $(FAULT_ARGS)

drill:  ## months of real bookings against a running `staytrue up`, with commits, in minutes; DRILL_ARGS="--dir drill" keeps it
	@$(need_dev) && "$$bin/python" -W ignore drills/drill.py $(DRILL_ARGS)

drill-shop:  ## the same on made-up rows, in a minute
	@$(need_dev) && "$$bin/python" -W ignore drills/drill.py --only shop $(DRILL_ARGS)

drill-harm:  ## a commit turns bad when the world moves: alarm, blame and repair with nobody there; DRILL_ARGS=--kill kills meanwhile
	@$(need_dev) && "$$bin/python" -W ignore drills/harm.py $(DRILL_ARGS)

drill-chaos:  ## a drill whose processes are killed and stopped, a thousand times; an hour or two
	@$(need_dev) && "$$bin/python" -m pytest -q -s -p no:randomly -m fault_long tests/fault/test_chaos.py $(FAULT_ARGS)

whodunnit:  ## code, data and a setting change at once and the loss rises: who did it? three endings, minutes; WHODUNNIT_ARGS="--only code --dir who"
	@$(need_demo) && "$$bin/python" -W ignore drills/whodunnit.py $(WHODUNNIT_ARGS)

bench:  ## figures against baselines, one table per script
	@$(need_dev) && status=0; for script in benchmarks/*.py; do \
	echo; echo "== $$script"; "$$bin/python" "$$script" || status=1; done; exit $$status

bench-serve:  ## what an answer over HTTP costs, beside FastAPI, mlflow and others; needs wrk
	@$(need_dev) && "$$bin/python" benchmarks/serving/bench.py

bench-loop:  ## what the loop costs, and how soon it acts; DBOS_PYTHON names a Python with dbos to compare with
	@$(need_dev) && status=0; for script in loop trials; do "$$bin/python" "benchmarks/$$script.py" || status=1; done; exit $$status

bench-health:  ## cost of profiles beside Evidently and others (EVIDENTLY_PYTHON); alarms, contract, labels, segments, remedies
	@$(need_dev) && status=0; \
	for script in health alarms "contract --repeat 3 --most 7" few_labels segments poison remedies; do set -- $$script; name=$$1; shift; \
	echo; echo "== benchmarks/$$name.py $$*"; OMP_NUM_THREADS=1 "$$bin/python" -W ignore "benchmarks/$$name.py" "$$@" || status=1; done; exit $$status

bench-page:  ## what a page costs at 10,000 releases, how heavy the first one is, what an idle one uses
	@$(need_dev) && OMP_NUM_THREADS=1 "$$bin/python" -W ignore benchmarks/page.py

bench-blame:  ## is the right change blamed for a drop, and nobody when nothing is wrong; BLAME_ARGS="--repeat 5 --only none"
	@$(need_dev) && OMP_NUM_THREADS=1 "$$bin/python" -W ignore benchmarks/blame.py $(BLAME_ARGS)

docs:  ## the pages as HTML in site/
	@$(need_dev) && "$$bin/python" scripts/docs.py

clean:  ## removes what the targets above made, the demo's store too
	rm -rf .venv .venv-3.* .venv.lock site demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
