#!/bin/bash
# Writes requirements.lock, requirements-dev.lock and requirements-client.lock: what pip takes today for the ranges,
# names and versions only.
set -eu -o pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

pip install -r requirements.txt
pip freeze > "$folder/run"
pip install -r requirements-dev.txt
pip freeze > "$folder/all"
{
  echo "# The exact set that was tested; ranges are in requirements.txt. Made by \`make lock\`."
  cat "$folder/run"
} > requirements.lock
{
  echo "# What lint, tests and benchmarks need on top of requirements.lock. Made by \`make lock\`."
  echo "-r requirements.lock"
  grep -vxFf "$folder/run" "$folder/all"
} > requirements-dev.lock

"${PYTHON:-python3}" -m venv --clear "$folder/venv"
pip install -r requirements-client.txt
{
  echo "# What tests/client drives, in .client. Made by \`make lock\`."
  pip freeze --all --exclude pip
} > requirements-client.lock
