#!/usr/bin/env bash
# Make .venv with the locked environment and the package in editable form. Needs Python 3.11 and the package index.
set -euo pipefail
cd "$(dirname "$0")/.."

# pyenv and similar leave shims that exist and do not run: ask each candidate what it is.
python=""
for candidate in python3.11 python3 python; do
  ask='import sys; assert sys.version_info[:2] == (3, 11); print(sys.executable)'
  if found=$("$candidate" -c "$ask" 2>/dev/null); then python=$found; break; fi
done
if [ -z "$python" ]; then
  echo "setup: Python 3.11 is not on PATH." >&2
  echo "Install it (e.g. apt-get install python3.11), then run make setup again." >&2
  exit 1
fi

if uv --version >/dev/null 2>&1; then
  uv=uv
elif [ -x .venv-uv/bin/uv ]; then
  uv=.venv-uv/bin/uv
elif "$python" -m venv .venv-uv >/dev/null 2>&1 && .venv-uv/bin/python -m pip install --quiet uv; then
  uv=.venv-uv/bin/uv
else  # a Python without ensurepip
  rm -rf .venv-uv
  "$python" -m pip install --quiet --target .venv-uv uv
  uv=.venv-uv/bin/uv
fi

export UV_PYTHON_DOWNLOADS=never UV_LINK_MODE="${UV_LINK_MODE:-hardlink}" UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
# Trust what the machine trusts (company proxies), where it has a certificate store at all.
if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
  export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}" UV_NATIVE_TLS="${UV_NATIVE_TLS:-1}"
fi
unset VIRTUAL_ENV CONDA_PREFIX UV_FIND_LINKS UV_EXTRA_INDEX_URL UV_INDEX
if ! .venv/bin/python -c 'import sys; assert sys.version_info[:2] == (3, 11)' 2>/dev/null; then
  rm -rf .venv
  "$uv" venv --quiet --no-config --python "$python" .venv
fi
# --no-deps: the lock is complete, and what it does not name must not come in.
"$uv" pip install --no-config --python .venv/bin/python --no-deps -r requirements.lock
# The build backend is in the lock, so the package itself is installed without the network.
"$uv" pip install --quiet --no-config --python .venv/bin/python --no-deps --no-build-isolation -e .
touch .venv/setup.stamp
echo "setup: .venv is ready"
