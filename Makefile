# joulebook. `make demo` trains a real network and shows what it drew; `make help` lists the rest.
#
# Everything is installed into .venv; what is done leaves a stamp under .stamps and is not done again until
# pyproject.toml changes (torch: until make clean). Variables: PYTHON (3.11 or newer), TORCH (the pinned requirement), TORCH_INDEX (an
# index to take torch from; README.md says when that saves a large download), DEMO (options of the demo), WORKERS (tests run
# side by side; most of them wait for a clock).

PYTHON = python3
TORCH = torch==2.13.0
TORCH_INDEX =
DEMO =
WORKERS = 2
STUDY = --seeds 5 --members 4 --control --out out/study

BIN = .venv/bin
PIP = $(BIN)/python -m pip -qq --disable-pip-version-check
SOURCES = agent collector reports studies tests bench tools

.DEFAULT_GOAL = help
.PHONY: help demo study test check bench soak clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: .stamps/studies .stamps/images ## train, measure, price and report: under ten minutes on two cores
	@$(BIN)/joulebook demo $(DEMO)

study: .stamps/studies .stamps/images ## the demo at larger size: five seeds, four members, the budget control
	@$(BIN)/joulebook demo $(STUDY)

test: .stamps/dev .stamps/images .stamps/compiler .stamps/prometheus ## all tests
	@PATH="$(CURDIR)/.stamps/debian-prometheus/usr/bin:$$PATH" $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests

check: .stamps/dev ## formatting, lint, types
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/mypy agent collector reports studies

bench: .stamps/dev .stamps/images .stamps/compiler .stamps/peers ## every measurement under bench/, more than half an hour
	@failed=; for file in $(filter-out bench/soak.py bench/report.py,$(wildcard bench/*.py)); do \
	echo "== $$file"; BENCH_RESULTS=out/bench $(BIN)/python $$file || failed="$$failed $$file"; done; \
	$(BIN)/python bench/report.py out/bench; [ -z "$$failed" ] || { echo "could not be measured:$$failed"; exit 1; }

soak: .stamps/dev .stamps/images .stamps/compiler ## the kill tests, again and again
	@$(BIN)/python -m pytest -m soak tests || [ $$? -eq 5 ]
	@if [ -f bench/soak.py ]; then $(BIN)/python bench/soak.py; fi

clean: ## remove .venv, stamps, caches and results
	rm -rf .venv .venv-peers .stamps out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp after another: two pips at once in one environment would trip over each other.

.stamps/venv:
	@mkdir -p .stamps
	@studies/make-venv.sh $(PYTHON) .venv
	@touch $@

.stamps/torch: .stamps/venv
	@echo "installing $(TORCH): 200 MB or more, a minute or two"
	@$(PIP) install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$(TORCH)" numpy
	@touch $@

.stamps/studies: .stamps/torch pyproject.toml
	@echo "installing joulebook and what its reports need"
	@$(PIP) install --editable '.[studies]'
	@touch $@

.stamps/dev: .stamps/studies
	@echo "installing the tools of make check and make test"
	@$(PIP) install --editable '.[studies,dev]'
	@touch $@

# One by one: a peer that cannot be installed is said to be missing, and the others are measured. amdsmi comes with zeus,
# and where AMD's library is not there its import stops wattameter.
.stamps/peers: .stamps/venv bench/peers.txt
	@$(PYTHON) -m venv .venv-peers
	@grep -v '^#' bench/peers.txt | while read -r peer; do \
	.venv-peers/bin/python -m pip -qq --disable-pip-version-check install "$$peer" || echo "$$peer cannot be installed"; done
	@.venv-peers/bin/python -m pip -qq --disable-pip-version-check uninstall --yes amdsmi
	@touch $@

.stamps/images: .stamps/studies
	@studies/get-images.sh $(BIN)/python
	@touch $@

.stamps/prometheus: .stamps/dev
	@tests/get-prometheus.sh .stamps/debian-prometheus
	@touch $@

.stamps/compiler: .stamps/dev
	@if command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null; \
	then echo "the simulator is built by this machine's C compiler"; \
	else echo "no C compiler here: the simulator is built by the ziglang wheel"; $(PIP) install ziglang; fi
	@touch $@
