"""An AWS on loopback that runs the deployed app.

A moto server, with one small module for each thing that moto lacks. Any AWS client can be pointed
at it, the real ``cdk bootstrap`` and ``cdk deploy`` among them:

    with LocalCloud(workdir=Path(".build/cloud")) as cloud:
        subprocess.run(["cdk", "deploy"], env={**os.environ, **cloud.environment})
"""

from local.cloud.server import LocalCloud, PortInUseError

__all__ = ["LocalCloud", "PortInUseError"]
