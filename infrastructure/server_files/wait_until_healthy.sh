#!/bin/bash
# Waits until Consul's autopilot says that this server is healthy and has its vote, and that another
# one could be lost: then the next one may be replaced.
set -euo pipefail

# Prints what is still missing, or "nothing".
look() {
    local token report found
    token="$(jq --raw-output '.acl.tokens.agent // empty' /etc/consul.d/secrets.json)"
    if [[ -z $token ]]; then
        echo "it has no token yet, which the workflow ClusterBootstrap makes"
        return
    fi
    # The answer is 429 as long as any server is not healthy, with the same report in it.
    if ! report="$(printf 'X-Consul-Token: %s' "$token" | curl --silent --show-error --max-time 10 \
        --header @- http://127.0.0.1:8500/v1/operator/autopilot/health 2>&1)"; then
        echo "Consul does not answer: $report"
        return
    fi
    found="$(jq --raw-output --arg name "$NODE_NAME" --arg address "$ADDRESS:8300" '
        . as $report
        | (.Servers | map(select(.Name == $name)) | first) as $server
        | if $server == null then "it is not among the servers"
          elif $server.Address != $address then "the servers know it as \($server.Address)"
          elif $server.Healthy != true then "it is not healthy (gossip: \($server.SerfStatus))"
          elif $server.Voter != true then "it has no vote"
          elif $report.FailureTolerance < 1 then "it is healthy, but no other server may be lost"
          else "nothing" end
    ' <<< "$report" 2> /dev/null)" || found=
    echo "${found:-Consul answers \"${report:0:200}\"}"
}

before=
for attempt in {1..60}; do
    missing="$(look)"
    if [[ $missing == nothing ]]; then
        echo "$NODE_NAME is healthy."
        exit 0
    fi
    if [[ $missing != "$before" ]]; then
        echo "Waiting for $NODE_NAME to be healthy: $missing."
        before="$missing"
    fi
    ((attempt == 60)) || sleep 10
done
echo "After ten minutes $NODE_NAME is not a healthy server: $missing." \
    "\`journalctl --unit consul\` on $INSTANCE_ID says more." >&2
exit 1
