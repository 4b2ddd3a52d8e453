#!/bin/bash
# Attaches the server's data volume to this machine and mounts it. A volume that its predecessor
# still has is waited for; one that is blank gets a file system, any other one never does.
set -euo pipefail

mount_point=/opt/consul
# How the NVMe driver names a volume of EBS: by its serial number, the ID without the hyphen.
device="/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${VOLUME_ID/-/}"

for attempt in {1..60}; do
    found="$(aws ec2 describe-volumes --volume-ids "$VOLUME_ID" \
        --query 'Volumes[0].[State, Attachments[0].InstanceId]' --output text)"
    read -r state holder <<< "$found"
    [[ $holder == "$INSTANCE_ID" ]] && break
    if [[ $state == available ]] &&
        aws ec2 attach-volume --volume-id "$VOLUME_ID" --instance-id "$INSTANCE_ID" \
            --device /dev/sdf > /dev/null; then
        break
    fi
    if ((attempt == 60)); then
        echo "After ten minutes the volume $VOLUME_ID is still not free: it is \"$state\", and" \
            "attached to $holder. Look whether that instance is shutting down; it has to be" \
            "gone before $NODE_NAME can have its data." >&2
        exit 1
    fi
    echo "Waiting for the volume $VOLUME_ID: it is \"$state\", and attached to $holder."
    sleep 10
done

for attempt in {1..60}; do
    [[ -e $device ]] && break
    if ((attempt == 60)); then
        echo "The volume $VOLUME_ID is attached, but there is no $device after two minutes. The" \
            "type of the instance has to be one with NVMe (Nitro)." >&2
        exit 1
    fi
    sleep 2
done

# 2 is its word for "nothing at all on it"; a partition table alone is 0, without a type.
status=0
kind="$(blkid --probe --match-tag TYPE --output value "$device")" || status=$?
if ((status == 2)); then
    echo "The volume $VOLUME_ID is blank: it gets a file system."
    mkfs.xfs -q "$device"
elif ((status != 0)) || [[ $kind != xfs ]]; then
    echo "The volume $VOLUME_ID has something on it that is not ours, \"$kind\" (blkid: $status)." \
        "Nothing is written on it. Look what it is." >&2
    exit 1
fi

uuid="$(blkid --probe --match-tag UUID --output value "$device")"
# "nofail": the machine comes up without it, too, and can be looked at; Consul does not start then.
line="UUID=$uuid $mount_point xfs defaults,nofail,x-systemd.device-timeout=60s 0 2"
if ! grep --quiet --fixed-strings --line-regexp "$line" /etc/fstab; then
    echo "$line" >> /etc/fstab
    systemctl daemon-reload
fi
mkdir -p "$mount_point"
mountpoint --quiet "$mount_point" || mount "$mount_point"
# The volume may have been made larger since.
xfs_growfs "$mount_point" > /dev/null
