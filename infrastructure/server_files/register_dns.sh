#!/bin/bash
# Puts this machine's address into the DNS name of the servers ("register"), or takes it out
# ("deregister").
set -euo pipefail

case "$1" in
    register)
        operation="$(aws servicediscovery register-instance --service-id "$DNS_SERVICE_ID" \
            --instance-id "$NODE_NAME" --attributes "AWS_INSTANCE_IPV4=$ADDRESS" \
            --query OperationId --output text)"
        for attempt in {1..30}; do
            found="$(aws servicediscovery get-operation --operation-id "$operation" \
                --query 'Operation.[Status, ErrorMessage]' --output text)"
            read -r status problem <<< "$found"
            [[ $status == SUCCESS ]] && break
            if [[ $status == FAIL ]] || ((attempt == 30)); then
                echo "$NODE_NAME could not be registered in Cloud Map: $status, $problem" >&2
                exit 1
            fi
            sleep 5
        done
        ;;
    deregister)
        # A successor may have the name already.
        registered="$(aws servicediscovery get-instance --service-id "$DNS_SERVICE_ID" \
            --instance-id "$NODE_NAME" --query Instance.Attributes.AWS_INSTANCE_IPV4 --output text)"
        if [[ $registered == "$ADDRESS" ]]; then
            aws servicediscovery deregister-instance --service-id "$DNS_SERVICE_ID" \
                --instance-id "$NODE_NAME" > /dev/null
        fi
        ;;
    *)
        echo "Usage: register_dns.sh register|deregister" >&2
        exit 2
        ;;
esac
