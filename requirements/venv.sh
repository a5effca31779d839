#!/bin/sh
# venv.sh PYTHON FOLDER: a virtual environment with pip, made anew. Of several of that name on the
# PATH it gets the fastest: how a Python was built makes much of its speed.
set -eu
python=$1 folder=$2
here=$(dirname "$0")

# Those that are complete, each once whatever links lead to it.
candidates() {
    IFS=:
    for place in $PATH; do
        "$place/$1" -c 'import ensurepip, os, sys; print(os.path.realpath(sys.executable))' \
            2>/dev/null || true
    done | awk '!seen[$0]++'
}

# In turns, because others may use the machine; the least of each counts.
fastest() {
    for _ in 1 2 3 4 5; do
        echo "$1" | while read -r one; do
            echo "$("$one" "$here/pace.py") $one"
        done
    done | sort -n | head -n 1 | cut -d ' ' -f 2-
}

case $python in
*/*) ;;
*)
    found=$(candidates "$python")
    if [ "$(echo "$found" | wc -l)" -gt 1 ]; then
        python=$(fastest "$found")
    fi
    ;;
esac
if ! command -v "$python" >/dev/null 2>&1; then
    python=python3
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
fi
echo "Making $folder with $("$python" --version), $(command -v "$python")"
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    # Debian keeps ensurepip in a package of its own.
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get install -y -q "$package" >/dev/null 2>&1 ||
            { apt-get update -q >/dev/null && apt-get install -y -q "$package" >/dev/null; }
    else
        echo "Python's venv module is not complete here. As root: apt-get install $package" >&2
        exit 1
    fi
fi
"$python" -m venv --clear "$folder"
