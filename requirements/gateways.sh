#!/bin/sh
# gateways.sh PYTHON UV_VERSION: what `make test-gateways` needs, in .gateways and from Debian.
#
# What this machine cannot install is said and left out; its tests are skipped then.
set -u
python=$1 uv_version=$2
here=.gateways
log=$here/install.log
mkdir -p $here
: >$log

# A net that does not answer is one that is not there.
within() {
    seconds=$1 && shift
    if command -v timeout >/dev/null; then timeout -k 10 "$seconds" "$@"; else "$@"; fi
}

install_litellm() {
    "$python" -m venv --clear $here/venv &&
        within 120 $here/venv/bin/python -m pip --disable-pip-version-check --quiet \
            install "uv==$uv_version" &&
        # pip takes minutes for the 120 packages, uv seconds.
        within 600 $here/venv/bin/uv pip install --quiet --python $here/venv/bin/python --require-hashes \
            -r requirements/gateways.txt
}

install_nginx() {
    command -v nginx || PATH=$PATH:/usr/sbin command -v nginx && return
    [ "$(id -u)" = 0 ] && command -v apt-get || return
    # Debian would start it, on all addresses.
    policy=/usr/sbin/policy-rc.d
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && ours=1; }
    export DEBIAN_FRONTEND=noninteractive
    within 300 apt-get install -y -q nginx-light ||
        { within 120 apt-get update -q && within 300 apt-get install -y -q nginx-light; }
    status=$?
    [ -z "${ours:-}" ] || rm -f $policy
    return $status
}

missing=0
echo "Installing LiteLLM in $here/venv"
if ! install_litellm >>$log 2>&1; then
    echo "LiteLLM cannot be installed here ($log says why): its tests are skipped"
    rm -rf $here/venv
    missing=1
fi
if ! install_nginx >>$log 2>&1; then
    echo "nginx cannot be installed here (as root: apt-get install nginx-light): its tests are skipped"
    missing=1
fi
[ $missing = 1 ] || touch $here/.ready
