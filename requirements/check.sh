#!/bin/sh
# check.sh BIN: every check, all of them also when one fails. BIN: the virtual environment's bin folder.
bin=$1
failed=""

check() {
    echo "== $*"
    "$bin/$@" || failed="$failed
  $*"
}

check ruff format --check .
check ruff check .
check mypy .
check lint-imports
check python manage.py makemigrations --check --dry-run
if [ -n "$(find . -name '*.html' -path '*/templates/*' -not -path './.venv/*' -not -path './node_modules/*' | head -n 1)" ]; then
    check djlint templates --check --lint --quiet
fi

if [ -n "$failed" ]; then
    echo "Failed:$failed" >&2
    exit 1
fi
echo "All checks passed."
