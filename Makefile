VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv demo test lint check results observability bench films format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

venv: $(VENV)/.installed ## install everything into .venv

$(VENV)/.installed: pyproject.toml constraints.txt
	@.ci/venv $(VENV)
	@echo "Installing into $(VENV) (the first time takes minutes, most of them for torch)"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e ".[agents,dev]"
	@touch $@

demo: venv ## train, evaluate and film an agent
	$(BIN)/bullet-envs demo

test: venv ## run all tests
	$(BIN)/pytest -n 2 --dist worksteal

# mypy does not read package-dir, so it gets links that put the folders where the wheel has them.
lint: venv ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@rm -rf build/mypy && mkdir -p build/mypy/bullet_envs
	@ln -s $(CURDIR)/bullet_envs/* $(CURDIR)/agents $(CURDIR)/assets build/mypy/bullet_envs
	cd build/mypy && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache

check: lint test ## everything a change must pass

results: venv ## train every agent with every seed and rewrite the README's table
	$(BIN)/python -m bullet_envs.agents.matrix

observability: venv ## measure again what the pictures tell, where its CSV has no row
	$(BIN)/python -m bullet_envs.agents.observability

bench: venv ## time the environments beside bare PyBullet and others
	@$(BIN)/python -m pip install -qq -c constraints.txt -e ".[bench]"
	$(BIN)/bullet-envs bench --json docs/bench.json --readme README.md

films: venv ## film the bundled agents and draw the pictures of the docs
	$(BIN)/python docs/pictures.py
	for card in agents/pretrained/*.json; do name=$$(basename $$card .json); \
		$(BIN)/bullet-envs record --env $${name%-*} --algo $${name##*-} || exit 1; done
	$(BIN)/bullet-envs record --gif --env BulletCartPole-v0 --algo dqn
	$(BIN)/bullet-envs record --gif --env BalancingPlate-v0 --algo reinforce

format: venv ## format and fix what can be fixed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## remove .venv and all that was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
