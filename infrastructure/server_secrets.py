"""The keys and secrets that Consul servers start with: made without a value, and filled later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infrastructure.token_secret import valueless_secret

CA_LIFETIME = Duration.days(3650)
"""Of the CA's certificate; a new one of the same key takes its place two years before the end."""


class ServerSecrets(Construct):
    """What servers need before they start. The workflows of the ACL controller write the values.

    You get: a key in KMS that is the servers' CA, whose private half nobody can read; and secrets
    for the CA's certificate, the key of the gossip encryption, the management token, the token of
    the servers' own agents, and the certificate and private key of each server. No template has a
    value of any.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        datacenter: the servers' datacenter; their certificates name it.
        server_names: the names of the servers' nodes.
        dns_names: under which the servers' API is reached; their certificates are for these, too.
        encryption_key: encrypts the secrets. Default: one is made.
        certificate_lifetime: of a server's certificate; at half of it there is a new one.
        chooses_management_token: whether the management token is chosen before the servers start,
            for a server that is given it. Default: it is made when the ACL system is bootstrapped.
        removal_policy: what becomes of the encryption key and of the management token when their
            stack goes. Volumes and snapshots that outlast it cannot be read without the one, and
            there is no other copy of the other. What can be made anew goes with the stack.

    Attributes:
        datacenter: the servers' datacenter.
        dns_names: under which the servers' API is reached.
        certificate_lifetime: of a server's certificate.
        chooses_management_token: whether the management token is chosen before the servers start.
        ca_key: signs the certificates.
        encryption_key: encrypts the secrets, and wraps the private keys while they are made.
        ca_secret: the CA's certificate, PEM.
        gossip_key_secret: the gossip key, base64.
        management_token_secret: the management token.
        agent_token_secret: the token of the servers' own agents, as the secrets of other tokens.
        certificate_secrets: by the server's name: `{"certificate": PEM, "private_key": PEM}`.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        datacenter: str,
        server_names: Sequence[str],
        dns_names: Sequence[str],
        certificate_lifetime: Duration,
        encryption_key: kms.IKey | None = None,
        chooses_management_token: bool = False,
        removal_policy: RemovalPolicy = RemovalPolicy.RETAIN,
    ) -> None:
        super().__init__(scope, construct_id)
        self.datacenter = datacenter
        self.dns_names = tuple(dns_names)
        self.certificate_lifetime = certificate_lifetime
        self.chooses_management_token = chooses_management_token
        self.ca_key = kms.Key(
            self,
            "CaKey",
            description=f"CA of the Consul servers of {datacenter}",
            key_spec=kms.KeySpec.ECC_NIST_P256,
            key_usage=kms.KeyUsage.SIGN_VERIFY,
            removal_policy=RemovalPolicy.DESTROY,
        )
        self.encryption_key = encryption_key or kms.Key(
            self,
            "EncryptionKey",
            description=f"Secrets and data of the Consul servers of {datacenter}",
            enable_key_rotation=True,
            removal_policy=removal_policy,
        )
        self.ca_secret = self._secret("Ca", "Certificate of the CA of the Consul servers")
        self.gossip_key_secret = self._secret("GossipKey", "Key of Consul's gossip encryption")
        self.management_token_secret = self._secret(
            "ManagementToken", "Management token of Consul's ACL system", removal_policy
        )
        self.agent_token_secret = self._secret("AgentToken", "Consul token of the servers' agents")
        self.certificate_secrets: Mapping[str, secretsmanager.ISecret] = {
            name: self._secret(f"Certificate-{name}", f"Certificate of the Consul server {name}")
            for name in server_names
        }

    def _secret(
        self,
        construct_id: str,
        description: str,
        removal_policy: RemovalPolicy = RemovalPolicy.DESTROY,
    ) -> secretsmanager.Secret:
        return valueless_secret(
            self,
            construct_id,
            description=description,
            encryption_key=self.encryption_key,
            removal_policy=removal_policy,
        )
