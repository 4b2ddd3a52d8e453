#!/bin/bash
# Says which machine this is, as lines of an environment file. It asks as IMDSv2 has it: with a
# token, which is on no command line.
set -euo pipefail

metadata=http://169.254.169.254/latest
ask=(curl --fail --silent --show-error --max-time 5 --retry 5 --retry-connrefused)

token="$("${ask[@]}" --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
    "$metadata/api/token")"
for pair in INSTANCE_ID=instance-id ADDRESS=local-ipv4; do
    value="$(printf 'X-aws-ec2-metadata-token: %s' "$token" |
        "${ask[@]}" --header @- "$metadata/meta-data/${pair#*=}")"
    printf '%s=%s\n' "${pair%=*}" "$value"
done
