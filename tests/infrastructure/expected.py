"""What the two stacks differ in, as far as the expectations are concerned."""

from __future__ import annotations

from dataclasses import dataclass

from tests.synthesized import GOVERNMENT, IRELAND, KEY, Place


@dataclass(frozen=True)
class Expected:
    """The settings of a stack, and the ARNs that follow from them."""

    place: Place
    cluster_name: str
    prefix: str
    address: str
    datacenter: str
    bootstrap_secret: str
    bootstrap_secret_name: str
    ca_secret: str | None
    key: str | None
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    log_retention: int
    tags: dict[str, str]

    @property
    def cluster(self) -> str:
        return self.place.arn("ecs", f"cluster/{self.cluster_name}")

    @property
    def tasks(self) -> str:
        return self.place.arn("ecs", f"task/{self.cluster_name}/*")

    @property
    def services(self) -> str:
        """All ECS services of the cluster."""
        return self.place.arn("ecs", f"service/{self.cluster_name}/*")

    def secret(self, name: str) -> str:
        return self.place.arn("secretsmanager", f"secret:{name}")

    @property
    def token_secrets(self) -> str:
        """All secrets that tasks pull."""
        return self.secret(f"{self.prefix}-*")

    @property
    def controller_secret(self) -> str:
        return self.secret(f"{self.prefix}-consul-controller-token-AbCdEf")

    @property
    def client_secret(self) -> str:
        return self.secret(f"{self.prefix}-consul-client-token-AbCdEf")

    def log_group(self, name: str) -> str:
        """What a policy allows writing to: a log group's streams."""
        return self.place.arn("logs", f"log-group:{name}:*")

    def machine(self, name: str) -> str:
        return self.place.arn("states", f"stateMachine:{name}")

    def executions(self, machine: str) -> str:
        """All executions of a state machine."""
        return self.place.arn("states", f"execution:{machine}:*")

    def rule(self, name: str) -> str:
        return self.place.arn("events", f"rule/{name}")

    def role(self, name: str) -> str:
        return self.place.arn("iam", f"role/{name}", region=False)

    def function(self, name: str) -> str:
        return self.place.arn("lambda", f"function:{name}")

    @property
    def queue_url(self) -> str:
        return f"https://sqs.{self.place.region}.amazonaws.com/{self.place.account}/DeadLetters"

    @property
    def tag_list(self) -> dict[str, list[dict[str, str]]]:
        """The property that carries the tags, if there are any."""
        if not self.tags:
            return {}
        return {"Tags": [{"Key": key, "Value": value} for key, value in sorted(self.tags.items())]}


MINIMAL = Expected(
    place=IRELAND,
    cluster_name="my-cluster",
    prefix="consul",
    address="http://consul.internal:8500",
    datacenter="dc1",
    bootstrap_secret=IRELAND.arn(
        "secretsmanager", "secret:BootstrapTokenSecret-0123456789ab-AbCdEf"
    ),
    bootstrap_secret_name="BootstrapTokenSecret-0123456789ab",
    ca_secret=None,
    key=None,
    subnets=(),
    security_groups=(),
    log_retention=30,
    tags={},
)
EVERYTHING = Expected(
    place=GOVERNMENT,
    cluster_name="prod_1",
    prefix="prod-consul",
    address="https://consul.example.com:8501",
    datacenter="eu-1",
    bootstrap_secret=GOVERNMENT.arn("secretsmanager", "secret:ops/consul-root-AbC123"),
    bootstrap_secret_name="ops/consul-root",
    ca_secret=GOVERNMENT.arn("secretsmanager", "secret:consul-ca-Zz9999"),
    key=KEY,
    subnets=("subnet-0123456789abcdef0", "subnet-0123456789abcdef1"),
    security_groups=("sg-0123456789abcdef0", "sg-0123456789abcdef1"),
    log_retention=365,
    tags={"team": "platform", "cost-center": "42"},
)
