#!/bin/sh
# venv.sh PYTHON FOLDER: a virtual environment with pip, made anew.
set -eu
python=$1 folder=$2

if ! command -v "$python" >/dev/null 2>&1; then
    python=python3
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
fi
echo "Making $folder with $("$python" --version)"
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
