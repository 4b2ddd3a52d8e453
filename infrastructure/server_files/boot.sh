#!/bin/bash
# Makes this machine a Consul server. The user data run it once; running it again does no harm, and
# a reboot needs only the units that it leaves behind.
#
# server.env is next to it: whose place this machine takes, and where its volume and secrets are.
set -euo pipefail
cd "$(dirname "$0")"

conclude() {
    local status=$?
    trap - EXIT
    if ((status != 0)); then
        echo "This machine has not become the server $NODE_NAME: what failed is said above." >&2
        bash ./signal.sh FAILURE
    fi
    exit "$status"
}

# Runs a command until it succeeds, for five minutes; each failure says its own reason.
patiently() {
    local attempt
    for attempt in {1..30}; do
        "$@" && return
        ((attempt == 30)) || sleep 10
    done
    return 1
}

# shellcheck source=/dev/null
set -a && . ./server.env
trap conclude EXIT
machine="$(bash ./identify.sh)"
echo "$machine" > machine.env
# shellcheck source=/dev/null
. ./machine.env && set +a

missing=()
for program in jq gpg; do
    command -v "$program" > /dev/null || missing+=("$program")
done
if ((${#missing[@]})); then
    # Amazon Linux has both packages; only one is named as its program.
    dnf install --assumeyes --quiet "${missing[@]/#gpg/gnupg2-minimal}"
fi

bash ./attach_volume.sh
# Consul makes this directory with its first start.
had_data=no
[[ -d /opt/consul/data/raft ]] && had_data=yes

bash ./install_consul.sh
bash ./write_config.sh

if ! patiently bash ./refresh_secrets.sh; then
    echo "After five minutes there is not every secret that $NODE_NAME starts with. The" \
        "workflow CertificateRenewal makes them: look at its last execution." >&2
    exit 1
fi

systemctl daemon-reload
systemctl enable --now consul.service consul-secrets.timer
# Apart from them: one try that fails, which the unit would repeat, is no reason to give up.
if ! patiently systemctl enable --now consul-dns.service; then
    echo "After five minutes the address of $NODE_NAME is not in the DNS name of the servers:" \
        "journalctl --unit=consul-dns.service says why." >&2
    exit 1
fi

# Servers have a token once there is a cluster, so one that comes with a blank volume, in another
# zone, is waited for, too.
if [[ $had_data == yes ]] ||
    jq --exit-status .acl.tokens.agent /etc/consul.d/secrets.json > /dev/null; then
    bash ./wait_until_healthy.sh
else
    # The first servers can only become healthy together.
    echo "$NODE_NAME is one of the first servers: nothing waits for it."
fi
bash ./signal.sh SUCCESS
