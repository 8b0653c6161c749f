# Two commands: `make book` builds the book, `make test` checks everything.
# They need Python >= 3.11 (with venv), git and make; the rest they install here,
# in .venv. Every path is relative, so the clone may lie under a name with spaces.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help book test serve clean fix reproducible picture bench studies logo vendor

# What the shell brings along must not change what is built.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONWARNINGS JUPYTER_PATH
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PORT ?= 8000
BENCH ?=
STUDIES ?=
RUN := .venv/bin/python
# The environment is redone when what it is made of changes, or when the clone has
# moved (an editable install holds an absolute path).
KEY := $(shell { pwd; cat requirements.txt pyproject.toml; } | cksum | tr ' ' '-')
READY := .venv/ready-$(KEY)

help:  ## show this list
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z]*\):.*## /  \1|/p' Makefile | awk -F'|' '{ printf "%-16s%s\n", $$1, $$2 }'

book: $(READY)  ## build the book; the last line says where to open it
	@$(RUN) -m tools.build

test: $(READY)  ## lint, types, tests, claims, chapters, strict build, links, browser
	@$(RUN) -m tools.test

serve: book  ## show the book on localhost (PORT=8000)
	@echo "http://localhost:$(PORT)/  (Ctrl-C stops)"
	@$(RUN) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

fix: $(READY)  ## format the code, put notebooks into their committed form
	@$(RUN) -m ruff check --fix --quiet .
	@$(RUN) -m ruff format --quiet .
	@$(RUN) -m tools.notebooks

reproducible: $(READY)  ## build twice from nothing and compare byte by byte
	@$(RUN) -m tools.reproducible

picture: book  ## take the README's figure from the front page
	@$(RUN) -m tools.picture

bench: $(READY)  ## time and memory against backpropagation (BENCH=--quick: a minute)
	@$(RUN) -m bench $(BENCH)

studies: $(READY)  ## remake the stored results of the long studies (STUDIES=--quick)
	@$(RUN) -m studies $(STUDIES)

logo: $(READY)  ## draw logo.svg, favicon.svg and card.png again
	@$(RUN) -m tools.logo

vendor: $(READY)  ## fetch the vendored KaTeX, Popper and Tippy files (needs npm)
	@$(RUN) -m tools.vendor

clean:  ## remove what was made, the environment included
	rm -rf .venv _run _build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(READY):
	@command -v git >/dev/null 2>&1 || { echo "git is missing. Debian, Ubuntu: apt-get install git; macOS: xcode-select --install"; exit 1; }
	@sh tools/environment.sh "$(PYTHON)"
	@rm -f .venv/ready-*
	@touch $(READY)
