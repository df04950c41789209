# Short names for setup.sh's commands; everything is made on the way.
.PHONY: help generate test bench-peers
PROMPT ?= def fibonacci(n):
BENCH ?= --busy

help:
	@echo 'make generate       text from the demo model; PROMPT="def fibonacci(n):" begins it'
	@echo 'make test           the tests'
	@echo 'make bench-peers    ours beside llama.cpp, transformers, mamba.py, onnxruntime and PyTorch, which are installed into'
	@echo '                    .venv; BENCH="--busy" holds the options, of which BENCH=--help tells'

generate:
	sh setup.sh mossnet-tg generate "$(PROMPT)"

test:
	sh setup.sh --test pytest

bench-peers:
	sh setup.sh python tests/bench/peers.py --install $(BENCH)
