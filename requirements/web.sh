#!/bin/sh
# web.sh BIN: builds what pages are made of into .built: the stylesheet, scripts and icons, and the
# translations. BIN: the virtual environment's bin folder, with Node where the machine has none.
set -eu
bin=$(cd "$1" && pwd)
PATH=$PATH:$bin
# There only where the machine's is missing or too old.
[ ! -x "$bin/node" ] || PATH=$bin:$PATH

rm -rf .built
mkdir -p .built/static/portal
node node_modules/@tailwindcss/cli/dist/index.mjs --minify \
    -i templates/look/portal.css -o .built/static/portal/portal.css 2>.built/tailwind.log || {
    cat .built/tailwind.log >&2
    exit 1
}
cp node_modules/htmx.org/dist/htmx.min.js templates/look/portal.js templates/look/*.svg .built/static/portal/

for catalog in locale/*/LC_MESSAGES/django.po; do
    mkdir -p ".built/$(dirname "$catalog")"
    "$bin/pybabel" --quiet compile --input-file "$catalog" --output-file ".built/${catalog%.po}.mo"
done
