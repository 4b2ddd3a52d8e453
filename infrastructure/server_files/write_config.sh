#!/bin/bash
# Writes what Consul needs besides its secrets: its user, directories, configuration and units.
set -euo pipefail

id consul > /dev/null 2>&1 ||
    useradd --system --user-group --no-create-home --home-dir /opt/consul --shell /sbin/nologin consul

mkdir -p /etc/consul.d/tls /opt/consul/data
chmod 0750 /etc/consul.d /etc/consul.d/tls /opt/consul/data
# What a predecessor wrote, belongs to a number that may be another user here.
chown -R consul:consul /opt/consul/data

cp "$NODE_NAME.json" /etc/consul.d/server.json
printf '{"bind_addr": "%s"}\n' "$ADDRESS" > /etc/consul.d/machine.json
chmod 0640 /etc/consul.d/server.json /etc/consul.d/machine.json
chown -R root:consul /etc/consul.d

cp ./*.service ./*.timer /etc/systemd/system/
