#!/bin/bash
# Tells the update of the stack whether this server is one now: SUCCESS or FAILURE.
set -euo pipefail

if ! said="$(aws cloudformation signal-resource --stack-name "$STACK_ID" \
    --logical-resource-id "$GROUP_LOGICAL_ID" --unique-id "$INSTANCE_ID" --status "$1" 2>&1)"; then
    # Most machines are not replaced by an update, and then nobody waits.
    echo "CloudFormation did not take the signal $1, which matters only in an update: $said"
fi
