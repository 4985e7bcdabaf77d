# Two commands: `make demo` shows the library at work, `make test` checks everything. The other targets are their parts.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed
OLDEST := .venv/oldest
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist worksteal

# Two torch processes on two cores get in each other's way unless each keeps to one thread and sleeps while it waits.
test test-oldest unit wheel: export OMP_NUM_THREADS ?= 1
test test-oldest unit wheel: export OMP_WAIT_POLICY ?= PASSIVE

# What a release of transformers can change: everything that looks into a model, runs one, or fits on one. Of calibration,
# which is long and mostly our own, what reads the model, one whole fit and one search; of the matrix a fit of every method.
OLDEST_TESTS := $(addprefix tests/test_, apply_conditions.py apply_context.py apply_generate.py apply_numbers.py \
	apply_rows.py apply_sites.py capture.py chat.py fitting_run.py generate.py kvcache.py layout.py lean.py load.py methods_baselines.py \
	parity.py split.py tiny.py upper.py writing.py \
	method_matrix.py::TestEveryMethod::test_a_fit_tells_its_progress_and_makes_finite_edits \
	calibration.py::TestReader calibration.py::TestFit::test_a_fit_keeps_its_curves_and_multipliers \
	calibration.py::TestFit::test_auto_picks_a_layer_for_every_kind_of_method[cdas])

.PHONY: demo test test-oldest install lint types arrows docs unit wheel bench

demo: $(INSTALLED)
	$(BIN)/trimtab demo --out build/demo --overwrite

test: lint types arrows docs
	$(PYTEST)
	$(MAKE) --no-print-directory test-oldest

# The same torch, an older transformers in front of the installed one; the tests refuse to run with another.
test-oldest: $(OLDEST)/.installed
	PYTHONPATH=$(CURDIR)/$(OLDEST) TRIMTAB_TRANSFORMERS=$$(sed -n 's/^transformers==//p' requirements-oldest.txt) \
		$(PYTEST) $(OLDEST_TESTS)

$(OLDEST)/.installed: $(INSTALLED) requirements-oldest.txt
	rm -rf $(OLDEST)
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-compile --target $(OLDEST) \
		-r requirements-oldest.txt
	touch $@

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into .venv, about a minute"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright

arrows: $(INSTALLED)
	$(BIN)/lint-imports --no-logo --no-cache

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

unit: $(INSTALLED)
	$(PYTEST) -m "not slow"

wheel: $(INSTALLED)
	$(BIN)/pytest tests/test_wheel.py

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.fit_speed
	$(BIN)/python -m benchmarks.generate_speed
