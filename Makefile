# Every target makes or mends .venv first, and does nothing there when it is already right.
.PHONY: quickstart test check bench soak study lock venv

quickstart: venv  ## the main job: two iterations of a tiny real model on this machine
	.venv/bin/lai run jobs/quickstart.toml

# What needs no second process: two at a time. Real engines, Ray and training want the machine for themselves.
IN_PROCESS = tests/unit tests/contracts tests/test_architecture.py

test: venv  ## unit, contract, Ray and fault tests, real parts included
	.venv/bin/python -m pytest -m "not soak and not gpu" -n 2 --dist loadfile $(IN_PROCESS)
	.venv/bin/python -m pytest -m "not soak and not gpu" $(addprefix --ignore=,$(IN_PROCESS))

check: venv  ## ruff and mypy
	.venv/bin/ruff check lai_ray tests requirements
	.venv/bin/ruff format --check lai_ray tests requirements
	.venv/bin/mypy

bench: venv  ## speed, as ratios against a baseline in the same run
	.venv/bin/python -m tests.perf.bench $(ONLY)

soak: venv  ## the long repeats
	.venv/bin/python -m pytest -m soak

STUDY = PYTHONPATH=jobs/studies .venv/bin

study: venv  ## the strategies against their controls (docs/results/method.md); hours, and resumable
	$(STUDY)/python jobs/studies/method.py students
	$(STUDY)/lai sweep jobs/studies/method_dev.toml
	$(STUDY)/python jobs/studies/method.py chosen
	$(STUDY)/lai sweep jobs/studies/method.toml
	$(STUDY)/python jobs/studies/method.py tables

lock: venv  ## resolve requirements/cpu.txt anew
	.venv/bin/python requirements/lock.py

venv:
	@sh requirements/venv.sh
