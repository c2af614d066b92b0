#!/bin/sh
# Makes .venv and installs all packages in editable mode with a real vLLM: the CUDA build where
# there is an NVIDIA GPU, the CPU build otherwise. Run it through `make setup`.
set -eu

python=${PYTHON:-python3}
cpu_torch=torch==2.13.0+cpu
pip=".venv/bin/python -m pip --quiet --disable-pip-version-check"

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Error: $("$python" --version) is too old; SAGE needs Python 3.11 or newer." >&2
    echo "Hint: name one, for example: make setup PYTHON=python3.11" >&2
    exit 1
fi

editable=
for package in common kernel middleware libs tuning tools; do
    editable="$editable -e packages/sage-$package"
done

echo "Setting up .venv; the first time this takes some minutes and 3 GB." >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv

if nvidia-smi >/dev/null 2>&1; then
    $pip install -r tools/install/requirements-dev.txt
    # shellcheck disable=SC2086 # a list of options
    $pip install $editable -e 'packages/sage-common[vllm]' -e 'packages/sage-kernel[ray]'
    exit
fi

# PyPI's torch is the CUDA build. Where pip is not told of PyTorch's CPU index, uv knows it.
if ! $pip install --no-deps "$cpu_torch" 2>/dev/null; then
    $pip install uv
    if ! .venv/bin/uv --quiet pip install --python .venv/bin/python \
            --torch-backend cpu --no-deps "$cpu_torch"; then
        echo "Error: found no $cpu_torch, the CPU build of PyTorch." >&2
        echo "Hint: set PIP_EXTRA_INDEX_URL to PyTorch's CPU index (see pytorch.org) and run" \
            "make setup again." >&2
        exit 1
    fi
fi
$pip install --no-deps -r tools/install/requirements-cpu.txt -r tools/install/requirements-dev.txt
# shellcheck disable=SC2086 # a list of options
$pip install --no-deps --no-build-isolation $editable
