#!/bin/bash
# Brings what the server keeps secret from Secrets Manager into its files, and lets Consul read them
# again if something is new. A timer runs it.
#
# Values go from file to file: they are on no command line, in no environment and in no log. If one
# cannot be had, everything stays as it is.
set -euo pipefail
umask 077

directory=/etc/consul.d
new="$(mktemp --directory "$directory/tls/new.XXXXXX")"
trap 'rm -rf "$new"' EXIT

# Arguments: the secret, the file that gets its value.
fetch() {
    aws secretsmanager get-secret-value --secret-id "$1" --query SecretString --output text \
        > "$2" 2> "$new/error"
}

# Arguments: what could not be had, the secret, and why.
give_up() {
    echo "The $1 could not be had from $2. The files of $NODE_NAME stay as they are. $3" >&2
    exit 1
}

fetch "$GOSSIP_KEY_SECRET" "$new/gossip" ||
    give_up "gossip key" "$GOSSIP_KEY_SECRET" "$(cat "$new/error")"
fetch "$CA_SECRET" "$new/ca.pem" ||
    give_up "certificate of the CA" "$CA_SECRET" "$(cat "$new/error")"
fetch "$CERTIFICATE_SECRET" "$new/pair" ||
    give_up "certificate" "$CERTIFICATE_SECRET" "$(cat "$new/error")"
if ! fetch "$AGENT_TOKEN_SECRET" "$new/token"; then
    # The servers run before ClusterBootstrap can make their token.
    grep --quiet '(ResourceNotFoundException)' "$new/error" ||
        give_up "token" "$AGENT_TOKEN_SECRET" "$(cat "$new/error")"
    echo '{}' > "$new/token"
fi

# What jq says of a value that is wrong may have the value in it.
grep --quiet 'BEGIN CERTIFICATE' "$new/ca.pem" ||
    give_up "certificate of the CA" "$CA_SECRET" "It holds something else."
for field in certificate private_key; do
    jq --exit-status --raw-output --arg field "$field" '.[$field] | select(startswith("-----BEGIN "))' \
        "$new/pair" > "$new/$field" 2> /dev/null ||
        give_up "$field" "$CERTIFICATE_SECRET" "It holds something else."
done
before="$directory/secrets.json"
if [[ ! -e $before ]]; then
    before="$new/before"
    echo '{}' > "$before"
fi
if ! jq --null-input --rawfile gossip "$new/gossip" --slurpfile tokens "$new/token" \
    --slurpfile before "$before" '
    ($tokens[0].token // $before[0].acl.tokens.agent) as $token
    | {encrypt: ($gossip | rtrimstr("\n") | select(test("^[A-Za-z0-9+/]+=*$")))}
    | if $token then .acl.tokens.agent = $token else . end
' > "$new/secrets.json" 2> /dev/null || [[ ! -s $new/secrets.json ]]; then
    give_up "gossip key or the token" "$GOSSIP_KEY_SECRET or $AGENT_TOKEN_SECRET" \
        "One of them holds something else."
fi

# Stays until Consul has been told, whatever happens in between.
untold="$directory/tls/untold"
# Arguments: the new file, the one in use.
replace() {
    if ! cmp --silent "$1" "$2"; then
        touch "$untold"
        chmod 0640 "$1"
        chown root:consul "$1"
        mv --force "$1" "$2"
        echo "$2 is new."
    fi
}
replace "$new/ca.pem" "$directory/tls/ca.pem"
replace "$new/private_key" "$directory/tls/server-key.pem"
replace "$new/certificate" "$directory/tls/server.pem"
replace "$new/secrets.json" "$directory/secrets.json"

if [[ -e $untold ]]; then
    # One that is not running reads them when it starts.
    if systemctl is-active --quiet consul.service; then
        systemctl reload consul.service
    fi
    rm --force "$untold"
fi
