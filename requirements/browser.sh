#!/bin/sh
# browser.sh: Chromium, which the tests of pages look through, and a font that has Chinese.
#
# They are the system's: installed here as root where there is apt-get. Where they cannot be, the
# tests of pages are skipped, or fail where CI is set; all others run.
set -u

missing=""
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing="chromium"
[ -n "$(fc-list :lang=zh family 2>/dev/null)" ] || missing="$missing fonts-noto-cjk"
[ -n "$missing" ] || exit 0

install() {
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        install -y -q --no-install-recommends $missing
}

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing" $missing
    log=$(mktemp)
    install >"$log" 2>&1 || { apt-get update -q >"$log" 2>&1 && install >>"$log" 2>&1; } || tail -n 5 "$log" >&2
    rm -f "$log"
    command -v chromium >/dev/null && exit 0
fi
echo "The tests of pages need a browser. As root: apt-get install" $missing >&2
