# Short names for setup.sh's commands; everything is made on the way.
.PHONY: generate test
PROMPT ?= def fibonacci(n):

generate:
	sh setup.sh mossnet-tg generate "$(PROMPT)"

test:
	sh setup.sh --test pytest
