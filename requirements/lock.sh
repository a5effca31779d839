#!/bin/sh
# lock.sh UV [OPTION...]: writes the locked .txt files from the .in files.
set -eu
uv=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
# The locked files name packages and hashes, never where they came from.
unset PIP_FIND_LINKS UV_FIND_LINKS || true

compile() {
    file=$1
    shift
    "$uv" pip compile "$file.in" -o "$file.txt" --quiet --universal --python-version 3.11 \
        --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links \
        --custom-compile-command "make lock" "$@"
}

compile requirements "$@"
cd requirements
compile dev "$@"
compile gateways "$@"
compile node "$@"
for file in postgres-1 postgres-2 valkey; do
    compile "$file" --no-deps "$@"
done
