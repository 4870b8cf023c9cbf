#!/usr/bin/env bash
# Build the phone app into web/dist, and its modules for tests into web/build. Needs Node.js 20 and the npm registry.
set -euo pipefail
cd "$(dirname "$0")/../web"
if ! command -v npm >/dev/null; then
  echo "web: npm is not on PATH." >&2
  echo "Install Node.js 20 or later, then run make web again." >&2
  exit 1
fi
if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
  npm ci --no-audit --no-fund --loglevel=error
fi
npm run --silent build
touch build/stamp
echo "web: the phone app is in web/dist"
