#!/bin/sh
# node.sh BIN: fetches what package-lock.json names into node_modules. BIN: the virtual environment's
# bin folder, which gets Node and npm where the machine has none (or one too old for what is in it).
set -eu
bin=$(cd "$1" && pwd)

fits() {
    command -v npm >/dev/null &&
        node -e 'process.exit(Number(process.versions.node.split(".")[0] < 20))' 2>/dev/null
}

PATH=$PATH:$bin
if ! fits; then
    PATH=$bin:$PATH
    "$bin/python" -m pip --disable-pip-version-check --quiet install --require-hashes \
        -r requirements/node.txt
fi
if ! npm ci --loglevel=error --prefer-offline --fetch-retries=4; then
    echo "The font and the front end are not there: npm could not fetch what package-lock.json names" >&2
    exit 1
fi
