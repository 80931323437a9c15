VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv docs demo test test-all lint check results benchmark-agents ablations atari observability presets robust report-cards custom-environment rllib-presets \
	convergence bench scaling mutants videos format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-19s %s\n", $$1, $$2 }' Makefile

venv: $(VENV)/.installed ## install everything into .venv

$(VENV)/.installed: pyproject.toml constraints.txt
	@.ci/venv $(VENV)
	@echo "Installing into $(VENV) (the first time takes minutes, most of them for torch)"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e ".[agents,atari,dev,docs]"
	@touch $@

demo: venv ## train, evaluate and record an agent
	$(BIN)/bullet-envs demo
	@echo "first, in this shell: source $(BIN)/activate"

test: venv ## run the quick tests
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not sweep"

test-all: test ## run the trainings and the long sweeps too
	$(BIN)/pytest -n 2 --dist worksteal -m "slow or sweep"

# mypy does not read package-dir, so it gets links that put the folders where the wheel has them.
lint: venv ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@rm -rf build/mypy && mkdir -p build/mypy/bullet_envs
	@ln -s $(CURDIR)/bullet_envs/* $(CURDIR)/agents $(CURDIR)/assets build/mypy/bullet_envs
	@ln -s $(CURDIR)/benchmarks build/mypy
	cd build/mypy && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/build/mypy-cache

check: lint test-all ## everything a change must pass

results: venv ## train every agent with every seed and rewrite the table of docs/results.md
	$(BIN)/python -m benchmarks.results

benchmark-agents: venv ## train the agents by hand beside published figures, where the CSV has no row
	@$(BIN)/python -m pip install -qq -c constraints.txt box2d
	$(BIN)/python -m benchmarks.agents
	$(BIN)/python -m benchmarks.agents --wall-clock

ablations: venv ## train the agents by hand without one of their parts, where the CSV has no row
	$(BIN)/python -m benchmarks.ablations

atari: venv ## train PPO by hand on two Atari games, where the CSV has no row
	$(BIN)/python -m benchmarks.atari

observability: venv ## measure again what the images tell, where its CSV has no row
	$(BIN)/python -m benchmarks.observability

robust: venv ## train agents for perturbed robots, where the CSV has no row
	$(BIN)/python -m benchmarks.robust

presets: venv ## measure again what an LQG can control, where the CSV has no row
	$(BIN)/python -m benchmarks.presets

custom-environment: venv ## train the guide's arm with every seed, where its CSV has no row
	$(BIN)/python -m benchmarks.custom_environment

convergence: venv ## measure again how the physics errs with its time step, for docs/physics.md
	$(BIN)/python -m benchmarks.convergence

bench: venv ## time the environments beside bare PyBullet and others
	@$(BIN)/python -m pip install -qq -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks.time_to_solve --json docs/bench.json --document docs/speed.md
	$(BIN)/python -m benchmarks.suites

# RLlib pins another gymnasium, so it is kept out of the environment.
INSTALL_RLLIB := [ -d build/rllib/ray ] || $(BIN)/python -m pip install -qq --target build/rllib -c constraints-rllib.txt "ray[rllib]"

rllib-presets: venv ## train Ray RLlib's agents with every seed, where the CSV has no row
	@$(INSTALL_RLLIB)
	PYTHONPATH=build/rllib $(BIN)/python -m benchmarks.rllib_presets

scaling: venv ## measure workers, and Ray RLlib's sampling and trainings, for docs/scaling.md
	$(BIN)/python -m benchmarks.worker_scaling --json docs/worker_scaling.json --document docs/scaling.md
	@$(INSTALL_RLLIB)
	PYTHONPATH=build/rllib $(BIN)/python -m benchmarks.rllib_scaling --json docs/rllib.json --document docs/scaling.md

report-cards: venv ## validate bundled agents, for the site, where a card is missing
	$(BIN)/python -m benchmarks.report_cards

videos: venv ## record the bundled agents and draw the images of the docs
	$(BIN)/python docs/images.py
	for card in agents/pretrained/*.json; do name=$$(basename $$card .json); id=$${name%%-v0*}-v0; \
		$(BIN)/bullet-envs record --env $$id --algo $${name#$$id-} || exit 1; done
	$(BIN)/bullet-envs compare --env BulletCartPole-v0 --env-kwargs perturbations:medium --algo lqr ppo ppo-robust
	$(BIN)/bullet-envs record --gif --env BulletCartPole-v0 --algo dqn
	$(BIN)/bullet-envs record --gif --env BalancingPlate-v0 --algo reinforce

docs: venv ## build the documentation site in build/docs
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs

format: venv ## format and fix what can be fixed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

mutants: venv ## change the code in one place at a time, and see whether the quick tests notice
	@$(BIN)/python -m pip install -qq -c constraints.txt mutmut
	$(BIN)/python -m benchmarks.mutants

clean: ## remove .venv and all that was built
	rm -rf $(VENV) build dist mutants docs/environments docs/command_line.rst *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
