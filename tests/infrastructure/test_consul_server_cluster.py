"""The servers for production: everything in their template that matters, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import cdk_nag
import pytest
from aws_cdk import Annotations, Duration, RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from cfnlint.api import lint  # type: ignore[import-untyped]
from cfnlint.config import ManualArgs  # type: ignore[import-untyped]

from infrastructure.consul_server_cluster import ConsulServerCluster, Snapshots
from infrastructure.mesh import CONSUL_IMAGE, MeshError
from infrastructure.server_config import ServerConfig
from tests.conftest import SynthesizeOnce
from tests.infrastructure.mesh_apps import new_app
from tests.infrastructure.test_templates import SECRET_LOOK, strings
from tests.synthesized import GOVERNMENT, IRELAND, Deployed, Synthesized

ROOT = Path(__file__).parents[2]
FILES = ROOT / "infrastructure" / "server_files"
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
KEY_ARN = GOVERNMENT.arn("kms", "key/11111111-2222-3333-4444-555555555555")
SERVER = "Consul/Servers/consul-server-2"
SERVERS = [f"Consul/Servers/consul-server-{number}" for number in (1, 2, 3)]


class Cluster(Deployed):
    """A stack with servers, as CloudFormation reads it."""

    def _reference(self, logical_id: str) -> str:
        if logical_id.startswith("SsmParameterValue"):
            parameter: dict[str, str] = self.synthesized.template["Parameters"][logical_id]
            return parameter["Default"]
        if logical_id in self.synthesized.template["Resources"]:
            kind, name = self._key(logical_id)
            if kind in {"AWS::EC2::Volume", "AWS::EC2::LaunchTemplate", "AWS::S3::Bucket"}:
                return f"{kind.rpartition('::')[2]}-of-{name}"
        return super()._reference(logical_id)

    def _attribute(self, logical_id: str, attribute: str) -> str:
        kind, name = self._key(logical_id)
        if attribute in {"HostedZoneId", "Id", "LatestVersionNumber"}:
            return f"{attribute}-of-{name}"
        if attribute == "Arn" and kind in {
            "AWS::KMS::Key",
            "AWS::S3::Bucket",
            "AWS::IAM::InstanceProfile",
            "AWS::ServiceDiscovery::Service",
        }:
            return f"Arn-of-{name}"
        return super()._attribute(logical_id, attribute)

    def _call(self, function: str, argument: Any) -> Any:
        if function == "Fn::Base64":
            return self.evaluate(argument)
        return super()._call(function, argument)


def vpc_of(stack: cdk.Stack, zones: str = "abc") -> ec2.IVpc:
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Vpc",
        vpc_id="vpc-0123456789abcdef0",
        availability_zones=[f"eu-west-1{zone}" for zone in zones],
        private_subnet_ids=[f"subnet-0123456789abcdef{index}" for index in range(len(zones))],
    )
    Annotations.of(vpc).acknowledge_warning(
        "@aws-cdk/aws-ec2:noSubnetRouteTableId", "Servers need no route table's ID."
    )
    return vpc


def synthesized(stack: cdk.Stack) -> Synthesized:
    app = stack.node.root
    assert isinstance(app, cdk.App)
    artifact = app.synth().get_stack_by_name(stack.stack_name)
    return Synthesized(
        app=app,
        name=stack.stack_name,
        template=artifact.template,
        messages=[f"{message.id}: {message.entry.data}" for message in artifact.messages],
    )


@pytest.fixture(scope="module")
def cluster(
    synthesize_once: SynthesizeOnce, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ConsulServerCluster, Cluster]:
    """Three servers, with every default."""
    stack = cdk.Stack(new_app(tmp_path_factory.mktemp("cluster")), "Prod")
    made = ConsulServerCluster(stack, "Consul", vpc=vpc_of(stack))
    return made, Cluster(synthesized(stack), IRELAND)


@pytest.fixture(scope="module")
def deployed(cluster: tuple[ConsulServerCluster, Cluster]) -> Cluster:
    return cluster[1]


@pytest.fixture(scope="module")
def customized(
    synthesize_once: SynthesizeOnce, tmp_path_factory: pytest.TempPathFactory
) -> Cluster:
    """Five servers, with everything set."""
    stack = cdk.Stack(new_app(tmp_path_factory.mktemp("customized")), "Gov")
    vpc = vpc_of(stack)
    ConsulServerCluster(
        stack,
        "Consul",
        vpc=vpc,
        servers=5,
        datacenter="gov-1",
        vpc_subnets=ec2.SubnetSelection(subnets=list(reversed(vpc.private_subnets))),
        instance_type=ec2.InstanceType("m7i.xlarge"),
        consul_version="1.20.6",
        volume_gib=200,
        volume_iops=10_000,
        namespace_name="mesh.example",
        encryption_key=kms.Key.from_key_arn(stack, "Key", KEY_ARN),
        snapshots=Snapshots(every=None, keep=Duration.days(7)),
        certificate_lifetime=Duration.days(30),
        removal_policy=RemovalPolicy.SNAPSHOT,
    )
    return Cluster(synthesized(stack), GOVERNMENT)


# --------------------------------------------------------------------------------------------------
# What others see
# --------------------------------------------------------------------------------------------------


def test_they_are_found_by_a_dns_name_and_looked_after_with_their_secrets(
    cluster: tuple[ConsulServerCluster, Cluster],
) -> None:
    made, _ = cluster

    assert made.http_address == "https://server.consul.internal:8501"
    assert made.retry_join == ("server.consul.internal",)
    assert made.datacenter == "dc1"
    secrets = made.managed.secrets
    assert made.ca_secret is secrets.ca_secret
    assert made.gossip_key_secret is secrets.gossip_key_secret
    assert list(secrets.certificate_secrets) == [f"consul-server-{n}" for n in (1, 2, 3)]
    assert secrets.dns_names == ("server.consul.internal",)
    assert secrets.certificate_lifetime.to_days() == 90
    assert not secrets.chooses_management_token
    assert made.managed.loses_its_state is None
    store = made.managed.snapshots
    assert store is not None
    assert store.every is not None
    assert store.every.to_hours() == 1
    assert store.encryption_key is secrets.encryption_key


def test_the_dns_name_is_the_addresses_of_all_servers(deployed: Cluster) -> None:
    assert deployed.of_type("AWS::ServiceDiscovery::PrivateDnsNamespace") == {
        "Consul/Namespace": {"Name": "consul.internal", "Vpc": "vpc-0123456789abcdef0"}
    }
    assert deployed.of_type("AWS::ServiceDiscovery::Service") == {
        "Consul/Namespace/Dns": {
            "Name": "server",
            "NamespaceId": "Id-of-Consul/Namespace",
            "DnsConfig": {
                "NamespaceId": "Id-of-Consul/Namespace",
                "DnsRecords": [{"Type": "A", "TTL": 15}],
                "RoutingPolicy": "MULTIVALUE",
            },
        }
    }


def test_only_these_may_reach_the_servers_and_only_there(deployed: Cluster) -> None:
    groups = deployed.of_type("AWS::EC2::SecurityGroup")
    rules = deployed.of_type("AWS::EC2::SecurityGroupIngress").values()

    assert {
        (rule["SourceSecurityGroupId"], rule["IpProtocol"], rule["FromPort"], rule["ToPort"])
        for rule in rules
    } == {
        ("sg-of-Consul/SecurityGroup", "tcp", 8300, 8300),
        ("sg-of-Consul/SecurityGroup", "tcp", 8301, 8301),
        ("sg-of-Consul/SecurityGroup", "udp", 8301, 8301),
        ("sg-of-Consul/HandlersSecurityGroup", "tcp", 8501, 8501),
    }
    assert {rule["GroupId"] for rule in rules} == {"sg-of-Consul/SecurityGroup"}
    assert set(groups) == {"Consul/SecurityGroup", "Consul/HandlersSecurityGroup"}
    assert not any("SecurityGroupIngress" in group for group in groups.values())


# --------------------------------------------------------------------------------------------------
# One server
# --------------------------------------------------------------------------------------------------


def tags(name: str, **more: Any) -> list[dict[str, Any]]:
    cluster = "Prod-Prod-Consul-D03DC460"
    return [
        {"Key": "consul-server", **more, "Value": name},
        {"Key": "consul-servers", **more, "Value": cluster},
        {"Key": "Name", **more, "Value": f"{cluster}/{name}"},
    ]


def test_a_server_has_a_machine_in_one_zone_that_is_replaced_before_the_next_one(
    deployed: Cluster,
) -> None:
    groups = {
        name: resource
        for (kind, name), resource in deployed.resources.items()
        if kind == "AWS::AutoScaling::AutoScalingGroup"
    }

    assert list(groups) == [f"{server}/Group/ASG" for server in SERVERS]
    group = groups[f"{SERVER}/Group/ASG"]
    assert group["Properties"] == {
        "LaunchTemplate": {
            "LaunchTemplateId": f"LaunchTemplate-of-{SERVER}/LaunchTemplate",
            "Version": f"LatestVersionNumber-of-{SERVER}/LaunchTemplate",
        },
        "MinSize": "1",
        "MaxSize": "1",
        "VPCZoneIdentifier": ["subnet-0123456789abcdef1"],
        "Tags": tags("consul-server-2", PropagateAtLaunch=True),
    }
    assert "CreationPolicy" not in group
    assert group["UpdatePolicy"] == {
        "AutoScalingRollingUpdate": {
            "MinInstancesInService": 0,
            "MaxBatchSize": 1,
            "MinSuccessfulInstancesPercent": 100,
            "PauseTime": "PT40M",
            "WaitOnResourceSignals": True,
            "SuspendProcesses": [
                "HealthCheck",
                "ReplaceUnhealthy",
                "AZRebalance",
                "AlarmNotification",
                "ScheduledActions",
                "InstanceRefresh",
            ],
        },
        "AutoScalingScheduledAction": {"IgnoreUnmodifiedGroupSizeProperties": True},
    }


def test_groups_are_one_after_the_other_and_each_after_what_its_machine_may_do(
    deployed: Cluster,
) -> None:
    chain = {
        name.removesuffix("/Group/ASG"): resource["DependsOn"]
        for (kind, name), resource in deployed.resources.items()
        if kind == "AWS::AutoScaling::AutoScalingGroup"
    }

    for before, server in zip([None, *SERVERS], SERVERS, strict=False):
        expected = [("AWS::IAM::Policy", server), ("AWS::IAM::Role", server)]
        if before is not None:
            expected.append(("AWS::AutoScaling::AutoScalingGroup", f"{before}/Group/ASG"))
        assert chain[server] == sorted(expected)


def test_a_machine_has_its_way_out_as_long_as_it_is_there(stack: cdk.Stack) -> None:
    vpc = ec2.Vpc(stack, "Vpc", restrict_default_security_group=False)

    made = ConsulServerCluster(stack, "Consul", vpc=vpc)

    # It still needs it when the stack is deleted: to take its address out of Cloud Map, which
    # deletes no service that has one.
    for group in made.groups:
        needed = {construct.node.path for construct in group.node.dependencies}
        assert any(re.fullmatch(r"Prod/Vpc/PrivateSubnet\d/DefaultRoute", path) for path in needed)


def test_a_data_volume_is_encrypted_in_the_zone_of_its_machine_and_kept(deployed: Cluster) -> None:
    volumes = {
        name: resource
        for (kind, name), resource in deployed.resources.items()
        if kind == "AWS::EC2::Volume"
    }

    assert [volume["Properties"]["AvailabilityZone"] for volume in volumes.values()] == [
        "eu-west-1a",
        "eu-west-1b",
        "eu-west-1c",
    ]
    assert volumes[f"{SERVER}/Data"] == {
        "Type": "AWS::EC2::Volume",
        "Properties": {
            "AvailabilityZone": "eu-west-1b",
            "Encrypted": True,
            "KmsKeyId": "Arn-of-Consul/Secrets/EncryptionKey",
            "MultiAttachEnabled": False,
            "VolumeType": "gp3",
            "Size": 100,
            "Iops": 3000,
            "Tags": tags("consul-server-2"),
        },
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "DependsOn": [],
    }


def test_a_machine_has_imdsv2_encrypted_disks_no_ssh_and_its_own_role(deployed: Cluster) -> None:
    template = deployed.of_type("AWS::EC2::LaunchTemplate")[f"{SERVER}/LaunchTemplate"]
    data = template["LaunchTemplateData"]

    assert {key: value for key, value in data.items() if key != "UserData"} == {
        "ImageId": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-6.1-arm64",
        "InstanceType": "m7g.large",
        "IamInstanceProfile": {"Arn": f"Arn-of-{SERVER}/LaunchTemplate/Profile"},
        "SecurityGroupIds": ["sg-of-Consul/SecurityGroup"],
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "InstanceMetadataTags": "disabled",
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/xvda",
                "Ebs": {"Encrypted": True, "VolumeSize": 20, "VolumeType": "gp3"},
            }
        ],
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tags("consul-server-2")}
            for kind in ("instance", "volume")
        ],
    }
    profile = deployed.of_type("AWS::IAM::InstanceProfile")[f"{SERVER}/LaunchTemplate/Profile"]
    assert profile == {"Roles": [SERVER.replace("/", "-")]}


def secret_arn(name: str) -> str:
    return IRELAND.arn("secretsmanager", f"secret:Consul/Secrets/{name}-0123456789ab-AbCdEf")


def test_a_machine_may_do_this_and_nothing_else(deployed: Cluster) -> None:
    policy = deployed.of_type("AWS::IAM::Policy")[SERVER]
    role = deployed.of_type("AWS::IAM::Role")[SERVER]

    key = "Arn-of-Consul/Secrets/EncryptionKey"
    asset = f"arn:aws:s3:::cdk-hnb659fds-assets-123456789012-eu-west-1/{asset_of(deployed).name}"
    assert policy["PolicyDocument"] == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": asset.replace("asset.", "") + ".zip",
            },
            {
                "Effect": "Allow",
                "Action": "secretsmanager:GetSecretValue",
                "Resource": [
                    secret_arn("AgentToken"),
                    secret_arn("Ca"),
                    secret_arn("Certificate-consul-server-2"),
                    secret_arn("GossipKey"),
                ],
            },
            {
                "Effect": "Allow",
                "Action": "kms:Decrypt",
                "Resource": key,
                "Condition": {
                    "StringLike": {"kms:ViaService": "secretsmanager.eu-west-1.amazonaws.com*"}
                },
            },
            {
                "Effect": "Allow",
                "Action": [
                    "ec2:DescribeInstances",
                    "ec2:DescribeVolumes",
                    "servicediscovery:GetOperation",
                ],
                "Resource": "*",
            },
            {
                "Effect": "Allow",
                "Action": "ec2:AttachVolume",
                "Resource": IRELAND.arn("ec2", f"volume/Volume-of-{SERVER}/Data"),
            },
            {
                "Effect": "Allow",
                "Action": "ec2:AttachVolume",
                "Resource": IRELAND.arn("ec2", "instance/*"),
                "Condition": {
                    "StringEquals": {
                        "ec2:ResourceTag/consul-server": "consul-server-2",
                        "ec2:ResourceTag/consul-servers": "Prod-Prod-Consul-D03DC460",
                    }
                },
            },
            {
                "Effect": "Allow",
                "Action": "kms:CreateGrant",
                "Resource": key,
                "Condition": {
                    "Bool": {"kms:GrantIsForAWSResource": "true"},
                    "StringEquals": {"kms:GrantConstraintType": "EncryptionContextSubset"},
                    "StringLike": {"kms:ViaService": "ec2.eu-west-1.amazonaws.com*"},
                },
            },
            {
                "Effect": "Allow",
                "Action": [
                    "servicediscovery:DeregisterInstance",
                    "servicediscovery:GetInstance",
                    "servicediscovery:RegisterInstance",
                ],
                "Resource": "Arn-of-Consul/Namespace/Dns",
            },
            {
                "Effect": "Allow",
                "Action": ["route53:ChangeResourceRecordSets", "route53:GetHostedZone"],
                "Resource": "arn:aws:route53:::hostedzone/HostedZoneId-of-Consul/Namespace",
            },
            {
                "Effect": "Allow",
                "Action": "cloudformation:SignalResource",
                "Resource": IRELAND.arn("cloudformation", "stack/this"),
            },
        ],
    }
    assert role == {
        "Description": "Consul on ECS: the server consul-server-2",
        "AssumeRolePolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": "sts:AssumeRole",
                    "Principal": {"Service": "ec2.amazonaws.com"},
                }
            ],
        },
        # Session Manager, in place of SSH.
        "ManagedPolicyArns": ["arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"],
    }


def test_the_machines_differ_in_nothing_but_whose_they_are(deployed: Cluster) -> None:
    templates = deployed.of_type("AWS::EC2::LaunchTemplate")
    policies = deployed.of_type("AWS::IAM::Policy")

    for found, suffix in ((templates, "/LaunchTemplate"), (policies, "")):
        texts = {
            re.sub(
                r"(?<=consul-server-)\d|(?<=consulserver)\w+|(?<=subnet-0123456789abcdef)\d",
                "N",
                text,
            )
            for server in SERVERS
            for text in [json.dumps(found[server + suffix])]
        }
        assert len(texts) == 1


# --------------------------------------------------------------------------------------------------
# What a machine runs
# --------------------------------------------------------------------------------------------------


def asset_of(deployed: Cluster) -> Path:
    """Return the directory that becomes the file in S3."""
    outdir = Path(deployed.synthesized.app.outdir)
    (found,) = [path.parent for path in outdir.glob("asset.*/boot.sh")]
    return found


def user_data(deployed: Cluster, server: str = SERVER) -> str:
    template = deployed.of_type("AWS::EC2::LaunchTemplate")[f"{server}/LaunchTemplate"]
    text: str = template["LaunchTemplateData"]["UserData"]
    return text


def machine_of(deployed: Cluster, server: str = SERVER) -> dict[str, str]:
    """Return what the user data say of the machine."""
    found = re.search(r"<<'END'\n(.*?)\nEND\n", user_data(deployed, server), re.DOTALL)
    assert found
    return dict(re.findall(r"^([A-Z_0-9]+)='([^']*)'$", found[1], re.MULTILINE))


def test_the_user_data_say_whose_place_the_machine_takes(deployed: Cluster) -> None:
    logical_ids = {
        resource["Metadata"]["aws:cdk:path"]: logical_id
        for logical_id, resource in deployed.synthesized.template["Resources"].items()
    }

    assert machine_of(deployed) == {
        "AWS_DEFAULT_REGION": "eu-west-1",
        "NODE_NAME": "consul-server-2",
        "CONSUL_VERSION": CONSUL_IMAGE.rpartition(":")[2],
        "VOLUME_ID": f"Volume-of-{SERVER}/Data",
        "DNS_SERVICE_ID": "Id-of-Consul/Namespace/Dns",
        "STACK_ID": IRELAND.arn("cloudformation", "stack/this"),
        "GROUP_LOGICAL_ID": logical_ids[f"Prod/{SERVER}/Group/ASG"],
        "GOSSIP_KEY_SECRET": secret_arn("GossipKey"),
        "CA_SECRET": secret_arn("Ca"),
        "CERTIFICATE_SECRET": secret_arn("Certificate-consul-server-2"),
        "AGENT_TOKEN_SECRET": secret_arn("AgentToken"),
    }


def test_a_larger_volume_is_a_new_machine_which_makes_its_file_system_larger(
    deployed: Cluster, customized: Cluster
) -> None:
    assert "has 100 GiB" in user_data(deployed)
    assert "has 200 GiB" in user_data(customized)


def given_user_data(made: ConsulServerCluster, name: str) -> list[str]:
    """Return the user data of a server's machine as they are given to CDK."""
    server = made.node.find_child("Servers").node.find_child(name)
    template = server.node.find_child("LaunchTemplate")
    assert isinstance(template, ec2.LaunchTemplate)
    assert template.user_data is not None
    return template.user_data.render().splitlines()


def test_an_app_without_the_flags_of_new_apps_has_the_same_user_data(
    deployed: Cluster, synthesize_once: SynthesizeOnce
) -> None:
    stack = cdk.Stack(cdk.App(), "Prod")
    made = ConsulServerCluster(stack, "Consul", vpc=vpc_of(stack))

    lines, expected = given_user_data(made, "consul-server-2"), user_data(deployed).splitlines()
    assert lines[0] == expected[0] == "#!/bin/bash"
    assert lines[-1] == expected[-1]
    assert len(lines) == len(expected)


def test_what_the_image_is_given_comes_first_and_each_machine_takes_its_own_place(
    stack: cdk.Stack,
) -> None:
    of_the_image = ec2.UserData.for_linux()
    of_the_image.add_commands("echo 'the proxy of the company'")
    made = ConsulServerCluster(
        stack,
        "Consul",
        vpc=vpc_of(stack),
        machine_image=ec2.MachineImage.generic_linux(
            {"eu-west-1": "ami-0123456789abcdef0"}, user_data=of_the_image
        ),
    )

    for name in ("consul-server-1", "consul-server-2", "consul-server-3"):
        lines = given_user_data(made, name)
        assert lines[:2] == ["#!/bin/bash", "echo 'the proxy of the company'"]
        assert [line for line in lines if line.startswith("NODE_NAME=")] == [f"NODE_NAME='{name}'"]


def test_scripts_use_no_variable_that_nobody_sets(deployed: Cluster) -> None:
    used = {
        name
        for script in FILES.glob("*.sh")
        for name in re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", script.read_text())
    }

    assert used == {*machine_of(deployed), "INSTANCE_ID", "ADDRESS"} - {"AWS_DEFAULT_REGION"}


def test_the_user_data_have_room_to_spare(deployed: Cluster) -> None:
    # 16 KB is what EC2 takes; real ARNs are longer than those here, by less than 100 each.
    assert len(user_data(deployed)) < 8 * 1024


def test_the_file_in_s3_has_the_scripts_and_the_configuration_of_each_server(
    deployed: Cluster,
) -> None:
    content = {path.name: path.read_text() for path in asset_of(deployed).iterdir()}

    expected = {path.name: path.read_text() for path in FILES.iterdir()}
    for name in ("consul-server-1", "consul-server-2", "consul-server-3"):
        expected[f"{name}.json"] = ServerConfig(
            node_name=name,
            datacenter="dc1",
            bootstrap_expect=3,
            retry_join=["provider=aws tag_key=consul-servers tag_value=Prod-Prod-Consul-D03DC460"],
        ).text
    assert content == expected


SCRIPTS = sorted(FILES.glob("*.sh"))


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    checked = subprocess.run(
        [SHELLCHECK, "--severity=style", *SCRIPTS], capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stdout) == (0, "")


def test_shellcheck_finds_nothing_in_the_user_data(deployed: Cluster) -> None:
    checked = subprocess.run(
        [SHELLCHECK, "--severity=style", "-"],
        input=user_data(deployed),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_strict_and_says_first_what_it_is_for(script: Path) -> None:
    lines = script.read_text().splitlines()

    assert lines[0] == "#!/bin/bash"
    assert lines[1].startswith("# ")
    assert next(line for line in lines if not line.startswith("#")) == "set -euo pipefail"


def test_units_run_scripts_that_are_there_with_what_the_user_data_leave(deployed: Cluster) -> None:
    units = {path.name: path.read_text() for path in FILES.iterdir() if path.suffix != ".sh"}

    assert set(units) == {
        "consul.service",
        "consul-dns.service",
        "consul-secrets.service",
        "consul-secrets.timer",
    }
    for text in units.values():
        for script in re.findall(r"/opt/consul-server/(\w+\.sh)", text):
            assert (FILES / script).is_file()
    lines = set(units["consul.service"].splitlines())
    assert {
        "User=consul",
        "Group=consul",
        "ExecStart=/usr/local/bin/consul agent -config-dir=/etc/consul.d",
        "ExecReload=/bin/kill --signal HUP $MAINPID",
        "KillSignal=SIGTERM",
        "Restart=on-failure",
        "LimitNOFILE=65536",
        "RequiresMountsFor=/opt/consul",
    } <= lines


# --------------------------------------------------------------------------------------------------
# Snapshots
# --------------------------------------------------------------------------------------------------


def test_snapshots_are_encrypted_private_kept_for_a_month_and_never_deleted_with_the_stack(
    deployed: Cluster,
) -> None:
    bucket = deployed.resources["AWS::S3::Bucket", "Consul/Snapshots"]

    assert bucket == {
        "Type": "AWS::S3::Bucket",
        "Properties": {
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {
                        "BucketKeyEnabled": True,
                        "ServerSideEncryptionByDefault": {
                            "SSEAlgorithm": "aws:kms",
                            "KMSMasterKeyID": "Arn-of-Consul/Secrets/EncryptionKey",
                        },
                    }
                ]
            },
            "LifecycleConfiguration": {
                "Rules": [
                    {
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                        "ExpirationInDays": 30,
                        "Status": "Enabled",
                    }
                ]
            },
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
        },
        "DeletionPolicy": "Retain",
        "UpdateReplacePolicy": "Retain",
        "DependsOn": [],
    }
    assert deployed.of_type("AWS::S3::BucketPolicy")["Consul/Snapshots"]["PolicyDocument"] == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": {"AWS": "*"},
                "Action": "s3:*",
                "Resource": ["Arn-of-Consul/Snapshots", "Arn-of-Consul/Snapshots/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }


# --------------------------------------------------------------------------------------------------
# Everything set
# --------------------------------------------------------------------------------------------------


def test_five_servers_are_spread_over_three_zones_in_the_order_of_the_subnets(
    customized: Cluster,
) -> None:
    volumes = customized.of_type("AWS::EC2::Volume")
    groups = customized.of_type("AWS::AutoScaling::AutoScalingGroup")

    zones = [volume["AvailabilityZone"][-1] for volume in volumes.values()]
    assert zones == ["c", "b", "a", "c", "b"]
    assert [group["VPCZoneIdentifier"][0][-1] for group in groups.values()] == list("21021")


def test_what_is_set_arrives(customized: Cluster) -> None:
    server = "Consul/Servers/consul-server-5"
    template = customized.of_type("AWS::EC2::LaunchTemplate")[f"{server}/LaunchTemplate"]
    volume = customized.resources["AWS::EC2::Volume", f"{server}/Data"]
    config = json.loads((asset_of(customized) / "consul-server-5.json").read_text())

    data = template["LaunchTemplateData"]
    assert data["InstanceType"] == "m7i.xlarge"
    assert data["ImageId"].endswith("-x86_64")
    properties = volume["Properties"]
    assert (properties["Size"], properties["Iops"]) == (200, 10_000)
    assert properties["KmsKeyId"] == KEY_ARN
    assert volume["DeletionPolicy"] == volume["UpdateReplacePolicy"] == "Snapshot"
    assert machine_of(customized, server)["CONSUL_VERSION"] == "1.20.6"
    assert config["datacenter"] == "gov-1"
    assert config["bootstrap_expect"] == config["autopilot"]["min_quorum"] == 5
    (namespace,) = customized.of_type("AWS::ServiceDiscovery::PrivateDnsNamespace").values()
    assert namespace["Name"] == "mesh.example"
    (bucket,) = customized.of_type("AWS::S3::Bucket").values()
    assert bucket["LifecycleConfiguration"]["Rules"][0]["ExpirationInDays"] == 7
    key = customized.resources.get(("AWS::KMS::Key", "Consul/Secrets/EncryptionKey"))
    assert key is None


def test_the_controller_hears_how_large_a_snapshot_may_be(stack: cdk.Stack) -> None:
    snapshots = Snapshots(largest=cdk.Size.gibibytes(4))

    made = ConsulServerCluster(stack, "Consul", vpc=vpc_of(stack), snapshots=snapshots)

    assert made.managed.snapshots is not None
    assert made.managed.snapshots.largest.to_gibibytes() == 4


@pytest.fixture(params=["deployed", "customized"])
def each(request: pytest.FixtureRequest) -> Cluster:
    made: Cluster = request.getfixturevalue(request.param)
    return made


def test_synthesizing_says_nothing_that_its_user_has_to_wonder_about(each: Cluster) -> None:
    assert each.synthesized.messages == []


def test_no_template_and_no_file_has_anything_that_looks_like_a_secret(each: Cluster) -> None:
    texts = [
        *strings(each.synthesized.template),
        *(path.read_text() for path in asset_of(each).iterdir()),
    ]

    found = [match for text in texts if KEY_ARN not in text for match in SECRET_LOOK.findall(text)]
    # The scripts look for the first words of a PEM.
    assert set(found) <= {"-----BEGIN"}
    assert "{{resolve:" not in json.dumps(each.synthesized.template)


def test_no_arn_is_bound_to_a_partition(each: Cluster) -> None:
    texts = strings(each.synthesized.template)

    assert [text for text in texts if re.search(r"arn:aws[a-z-]*:", text) and text != KEY_ARN] == []


def test_cfn_lint_finds_nothing(each: Cluster) -> None:
    config = ManualArgs(
        regions=[each.place.region],
        include_checks=["I"],
        ignore_checks=["W3005"],  # CDK writes dependencies that a reference implies anyway
    )

    found = lint(json.dumps(each.synthesized.template), config=config)

    assert [f"{match.rule.id} {match.message} at {match.path}" for match in found] == []


NAG_REASONS = {
    "AwsSolutions-AS3": "A machine that is replaced says nothing to anybody; that too few servers "
    "are healthy, Consul's metrics do.",
    "AwsSolutions-IAM4": "AmazonSSMManagedInstanceCore is what AWS says Session Manager needs.",
    "AwsSolutions-IAM5": "EC2's Describe and Cloud Map's GetOperation cannot be limited; attaching "
    "is limited by the tags of the instance.",
    "AwsSolutions-S1": "Two functions use the bucket: access logs would tell what theirs do.",
    "AwsSolutions-SMG4": "The controller's workflows renew what has to be renewed.",
}


def test_cdk_nag_finds_nothing_without_a_reason(deployed: Cluster) -> None:
    app = deployed.synthesized.app
    report = cdk_nag.AwsSolutionsChecks(app).validate_scope(app)
    assert report.violations is not None

    found = {violation.rule_name.partition("[")[0] for violation in report.violations}

    assert found == set(NAG_REASONS)


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def stack(synthesize_once: SynthesizeOnce) -> cdk.Stack:
    """An empty stack; `synthesize_once` puts the right Node.js on the PATH."""
    return cdk.Stack(new_app(), "Prod")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {"servers": 4},
            "servers is 4. Give 3, which go on without one of them, or 5, which go on without two.",
        ),
        (
            {"volume_gib": 0},
            "volume_gib is 0. Give a data volume's size in GiB; for 3000 IOPS at least 6.",
        ),
        (
            {"volume_gib": 10, "volume_iops": 5001},
            "volume_gib is 10. Give a data volume's size in GiB; for 5001 IOPS at least 11.",
        ),
        (
            {"snapshots": Snapshots(largest=cdk.Size.gibibytes(6))},
            (
                "snapshots.largest is 6144 MiB. Give from 512 to 5120 MiB: a function's /tmp has "
                "no less, and S3 takes no more at once."
            ),
        ),
        (
            {"volume_iops": 100},
            "volume_iops is 100. Give 3000, which gp3 always has, or more.",
        ),
        (
            {"datacenter": "DC1"},
            (
                "datacenter must be the name of Consul's datacenter: lower-case letters, digits, "
                "'-' and '_'. It is the text 'DC1': Consul knows it as 'dc1'."
            ),
        ),
        (
            {"datacenter": lambda: cdk.Aws.REGION},
            "datacenter has to be known at synthesis. Give the text itself.",
        ),
        (
            {"namespace_name": lambda: cdk.Aws.REGION},
            "namespace_name has to be known at synthesis. Give the text itself.",
        ),
        *(
            (
                {"namespace_name": name},
                (
                    "namespace_name must be the DNS name of a private namespace, such as "
                    f'consul.internal. It is "{name}".'
                ),
            )
            for name in ("consul internal", "", "consul.internal.", "10.0.0.1", "a." * 126 + "a")
        ),
        (
            {"consul_version": "latest"},
            'consul_version is "latest". Give a release such as 1.21.5.',
        ),
        (
            {"consul_version": "1.13.9"},
            "consul_version is 1.13.9. Give 1.14.0 or a newer one.",
        ),
        (
            {"certificate_lifetime": lambda: Duration.days(1)},
            (
                "certificate_lifetime is 1 day. Give at least 14 days, so that a renewal that "
                "fails is seen in time."
            ),
        ),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_give(
    stack: cdk.Stack, arguments: dict[str, Any], problem: str
) -> None:
    # What CDK makes, it makes with the Node.js of the fixture.
    given = {name: value() if callable(value) else value for name, value in arguments.items()}

    with pytest.raises(MeshError, match=f"^{re.escape(f'Prod/Consul: {problem}')}$"):
        ConsulServerCluster(stack, "Consul", vpc=vpc_of(stack), **given)


def test_everything_that_is_wrong_is_said_at_once(stack: cdk.Stack) -> None:
    with pytest.raises(MeshError) as caught:
        ConsulServerCluster(
            stack, "Consul", vpc=vpc_of(stack), servers=1, volume_gib=-1, consul_version="2"
        )

    assert [line.split(" ")[1] for line in str(caught.value).splitlines()] == [
        "servers",
        "volume_gib",
        "consul_version",
    ]


@pytest.mark.parametrize(
    ("zones", "servers", "told"),
    [
        ("ab", 3, "3 servers in 2 availability zone(s): without one of the zones 2 are away"),
        ("ab", 5, "5 servers in 2 availability zone(s): without one of the zones 3 are away"),
        ("a", 3, "3 servers in 1 availability zone(s): without one of the zones 3 are away"),
        ("abc", 5, None),
    ],
)
def test_zones_whose_loss_the_servers_would_not_survive_are_warned_of(
    stack: cdk.Stack, zones: str, servers: int, told: str | None
) -> None:
    made = ConsulServerCluster(stack, "Consul", vpc=vpc_of(stack, zones), servers=servers)

    said = [entry.data for entry in made.node.metadata if entry.type == "aws:cdk:warning"]
    assert len(said) == (0 if told is None else 1)
    assert told is None or str(said[0]).startswith(told)


def test_two_clusters_of_an_account_never_join_each_other(stack: cdk.Stack) -> None:
    other = cdk.Stack(cdk.App.of(stack), "Other")
    nested = cdk.NestedStack(other, "Nested")
    values = set()
    for scope in (stack, other, nested):
        made = ConsulServerCluster(scope, "Consul", vpc=vpc_of(scope))
        values.add(made._cluster_tag)

    assert len(values) == 3
    assert not any(cdk.Token.is_unresolved(value) or " " in value for value in values)
