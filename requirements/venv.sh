#!/bin/sh
# Makes .venv from requirements/cpu.txt and leaves it alone when it is already right.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "lai-ray needs Python 3.11 or newer; $python is $("$python" -V 2>&1). Name another: make PYTHON=python3.11 ..." >&2
    exit 1
}
want="$("$python" -V) $(cat requirements/cpu.txt requirements/venv.sh pyproject.toml | sha256sum)"
[ "$(cat .venv/lai-ray.made-from 2>/dev/null || true)" = "$want" ] && exit 0

echo "making .venv ($(grep -c '==' requirements/cpu.txt) packages; about two minutes)"
rm -rf .venv
"$python" -m venv .venv
pip=".venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps"
failed() {
    cat .venv/install.log >&2
    exit 1
}
# PyTorch's CPU wheel is on PyTorch's own index. The index is named for this one command: where it cannot be reached,
# pip loses seconds on every package it looks up there.
$pip --extra-index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' requirements/cpu.txt)" 2>.venv/install.log || failed
grep -v '^torch==' requirements/cpu.txt >.venv/rest.txt
# uv takes a third of pip's time, but does not read pip's settings: an index set there is handed over, and where uv finds
# no way to the packages, pip does it.
index="$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)"
[ -n "$index" ] && export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
{ $pip uv==0.13.8 && .venv/bin/uv pip install --quiet --no-deps --compile-bytecode --python .venv/bin/python -r .venv/rest.txt; } \
    2>>.venv/install.log || $pip -r .venv/rest.txt 2>>.venv/install.log || failed
$pip --no-build-isolation -e . 2>>.venv/install.log || failed
echo "$want" >.venv/lai-ray.made-from
