#!/bin/bash
# Installs Consul from HashiCorp's releases, if this version is not there already. What is downloaded
# has to be what HashiCorp has signed.
set -euo pipefail

# Of HashiCorp's key for releases: https://www.hashicorp.com/trust/security
fingerprint=C874011F0AB405110D02105534365D9472D7468F
target=/usr/local/bin/consul

present="$(command -v consul || true)"
if [[ -n $present && "$("$present" version | head -n 1)" == "Consul v$CONSUL_VERSION" ]]; then
    echo "Consul $CONSUL_VERSION is there already: $present."
    [[ $present == "$target" ]] || ln --symbolic --force "$present" "$target"
    exit 0
fi

case "$(uname -m)" in
    aarch64) architecture=arm64 ;;
    x86_64) architecture=amd64 ;;
    *)
        echo "There is no Consul for the processor $(uname -m)." >&2
        exit 1
        ;;
esac

work="$(mktemp --directory)"
trap 'rm -rf "$work"' EXIT
cd "$work"
name="consul_${CONSUL_VERSION}"
archive="${name}_linux_$architecture.zip"
for file in "${name}_SHA256SUMS" "${name}_SHA256SUMS.sig" "$archive"; do
    curl --fail --silent --show-error --location --proto '=https' --retry 5 --retry-connrefused \
        --output "$file" "https://releases.hashicorp.com/consul/$CONSUL_VERSION/$file"
done
curl --fail --silent --show-error --location --proto '=https' --retry 5 --retry-connrefused \
    --output key.txt https://www.hashicorp.com/.well-known/pgp-key.txt

mkdir --mode=0700 keys
check=(gpg --homedir "$work/keys" --batch --no-autostart --quiet)
"${check[@]}" --import key.txt
# The last field is the primary key's: releases are signed by a key below it.
if ! said="$("${check[@]}" --status-fd 1 --verify "${name}_SHA256SUMS.sig" "${name}_SHA256SUMS")" ||
    ! grep --quiet "^\[GNUPG:\] VALIDSIG .* $fingerprint\$" <<< "$said"; then
    echo "The checksums of Consul $CONSUL_VERSION are not signed by HashiCorp's key $fingerprint." \
        "Nothing is installed." >&2
    exit 1
fi
if ! grep "  $archive\$" "${name}_SHA256SUMS" | sha256sum --check --status; then
    echo "$archive is not what HashiCorp has signed. Nothing is installed." >&2
    exit 1
fi

python3 -m zipfile --extract "$archive" content
chmod 0755 content/consul
mv --force content/consul "$target"
echo "Consul $CONSUL_VERSION is installed."
