"""The steps one after another, as the workflows run them: a rotation, and what Reconciliation does.

What each step does by itself is in its own module.
"""

from __future__ import annotations

from typing import Any

import pytest

from handlers import (
    check_redeployments,
    check_tags,
    create_policy,
    create_token,
    delete_unused,
    find_drift,
    plan_rotation,
    prove_token,
    publish_secret,
    redeploy_service,
    report_reconciliation,
    retire_tokens,
    store_secret,
)
from handlers.core import clock as clock_of_steps
from tests.unit.mesh_state import (
    CLIENT,
    CLIENT_SECRET,
    CONTROLLER,
    CONTROLLER_SECRET,
    MeshState,
)
from tests.unit.steps import Steps

WEB = {"service": "web"}
SECRETS = {"web": "acme-web", "client": CLIENT_SECRET, "controller": CONTROLLER_SECRET}


class Workflows:
    """The workflows without their retries and ends."""

    def __init__(self, mesh: MeshState, steps: Steps) -> None:
        self.mesh = mesh
        self.steps = steps

    def provision(self, event: dict[str, str]) -> None:
        """TaskProvisioning."""
        found = self.steps.run(check_tags, {"event": event, "service_rules": {}})
        stored = self.steps.run(store_secret, {"secret": found["secret"]})
        if "policy" in found:
            self.steps.run(create_policy, {"policy": found["policy"]})
        made = self.steps.run(create_token, {"secret": stored, "token": found["token"]})
        if not stored["public"] and made["change"] != "superseded":
            self.steps.run(publish_secret, {"secret": stored})

    def switch(self, event: dict[str, str]) -> dict[str, Any]:
        """TokenRotation, up to the moment at which its old token may be looked for."""
        plan = self.steps.run(plan_rotation, {"event": event, "service_rules": {}})
        renew = {"secret": plan["secret"], "renew": plan["subject"]}
        stored = self.steps.run(store_secret, renew)
        self.steps.run(create_token, {"secret": stored, "token": plan["token"]})
        assert self.steps.run(prove_token, {"secret": stored}) == {"proven": True}
        assert self.steps.run(publish_secret, {"secret": stored}) == {"published": True}
        old = {"tokens": stored["previous"]}
        retired = self.steps.run(retire_tokens, {**old, "superseded": True})
        assert (retired["retired"], retired["left"]) == (1, 0)
        self.mesh.clock.moment = clock_of_steps.from_text(retired["since"])
        return {"plan": plan, "old": old, "since": retired["since"]}

    def check(self, switched: dict[str, Any]) -> dict[str, Any]:
        """TokenRotation's look at the redeployments."""
        return self.steps.run(
            check_redeployments,
            {
                "subject": switched["plan"]["subject"],
                "since": switched["since"],
                "keep_ecs_services": [],
                "limit_minutes": 60,
            },
        )

    def reconcile(self) -> dict[str, int]:
        """Run Reconciliation once; return its report."""
        run: dict[str, Any] = {"drift": self._look({})}
        run["provisioned"] = self._provision_all(run["drift"])
        if run["drift"]["retire"]:
            run["retired"] = self.steps.run(retire_tokens, {"tokens": run["drift"]["retire"]})
        if run["drift"]["suspects"]:
            self.mesh.clock.let_pass(minutes=15)
            suspects = run["drift"]["suspects"]
            run["deletion"] = self.steps.run(delete_unused, {"tokens": suspects})
            run["look"] = self._look({"suspects": suspects})
            run["put_back"] = self._provision_all(run["look"])
        return self.steps.run(report_reconciliation, {"run": run})

    def _look(self, event: dict[str, Any]) -> dict[str, Any]:
        return self.steps.run(find_drift, {"event": event, "service_rules": {}})

    def _provision_all(self, drift: dict[str, Any]) -> list[dict[str, Any]]:
        for subject in drift["provision"]:
            self.provision(subject)
        return [{**subject, "run": {"status": "SUCCEEDED"}} for subject in drift["provision"]]


@pytest.fixture
def workflows(mesh: MeshState, steps: Steps) -> Workflows:
    return Workflows(mesh, steps)


def report(**counts: int) -> dict[str, int]:
    kinds = ("found", "repaired", "retired", "deleted", "put_back", "left")
    return dict.fromkeys(kinds, 0) | counts


# --- TokenRotation -------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [WEB, CLIENT], ids=str)
def test_a_rotation_ends_with_the_new_token_alone(
    workflows: Workflows, mesh: MeshState, steps: Steps, subject: dict[str, str]
) -> None:
    mesh.add_service("web", tasks=0)
    mesh.ecs.create_service("web", deployed_at=mesh.clock.ago(days=1))
    old_task = mesh.run_task("web", ecs_service="web")
    secret = SECRETS[subject.get("service") or subject["token"]]
    before = mesh.ids(secret)

    switched = workflows.switch(subject)
    after = mesh.ids(secret)
    assert after != before
    assert mesh.has(before)
    assert mesh.has(after)
    assert steps.run(delete_unused, switched["old"]) == {"deleted": 0, "kept": 1}

    look = workflows.check(switched)
    assert look["redeploy"] == [{"ecs_service": "web"}]
    asked = {"ecs_service": "web", "since": switched["since"]}
    assert steps.run(redeploy_service, asked) == {"redeployed": True}
    mesh.ecs.show_service("web", deployed_at=mesh.clock.moment, rollout="IN_PROGRESS")
    mesh.run_task("web", ecs_service="web", created_at=mesh.clock.moment)
    assert workflows.check(switched)["waiting"] == 1
    mesh.ecs.show_service("web", deployed_at=mesh.clock.moment)
    mesh.ecs.stop(old_task)
    assert workflows.check(switched)["done"] is True

    assert steps.run(delete_unused, switched["old"]) == {"deleted": 1, "kept": 0}
    assert not mesh.has(before)
    assert mesh.has(after)
    assert workflows.reconcile() == report()


def test_a_rotation_of_the_controllers_own_token_goes_on_with_the_new_one(
    workflows: Workflows, mesh: MeshState, steps: Steps
) -> None:
    mesh.add_service("web")
    before = mesh.controller
    switched = workflows.switch(CONTROLLER)
    assert switched["plan"]["has_tasks"] is False
    assert steps.run(delete_unused, switched["old"]) == {"deleted": 1, "kept": 0}
    assert not mesh.has(before)
    assert mesh.has(mesh.ids(CONTROLLER_SECRET))
    assert workflows.reconcile() == report()


def test_a_token_that_a_rotation_has_left_goes_with_the_last_task_that_holds_it(
    workflows: Workflows, mesh: MeshState, steps: Steps
) -> None:
    before = mesh.add_service("web", tasks=0)
    alone = mesh.run_task("web")  # which no ECS service replaces
    switched = workflows.switch(WEB)
    look = workflows.check(switched)
    assert (look["done"], look["kept"]) == (True, 1)
    assert steps.run(delete_unused, switched["old"]) == {"deleted": 0, "kept": 1}

    mesh.run_task("web", created_at=mesh.clock.moment)
    assert workflows.reconcile() == report()
    mesh.ecs.stop(alone)
    assert workflows.reconcile() == report(found=1, deleted=1)
    assert not mesh.has(before)
    assert mesh.has(mesh.ids())


# --- Reconciliation ------------------------------------------------------------------------------


def test_what_somebody_has_deleted_comes_back_with_the_same_ids(
    workflows: Workflows, mesh: MeshState
) -> None:
    ids = mesh.add_service("web")
    mesh.delete_token(ids)
    mesh.delete_token(mesh.client)
    mesh.run_task("api")
    assert workflows.reconcile() == report(found=3, repaired=3)
    assert mesh.has(ids)
    assert mesh.has(mesh.client)
    assert mesh.has(mesh.ids("acme-api"))
    assert workflows.reconcile() == report()


def test_a_token_without_tasks_is_deleted_and_comes_back_with_the_next_task(
    workflows: Workflows, mesh: MeshState
) -> None:
    ids = mesh.add_service("web", tasks=0)
    assert workflows.reconcile() == report(found=1, deleted=1)
    assert not mesh.has(ids)
    assert workflows.reconcile() == report()
    mesh.run_task("web")
    workflows.provision(WEB)
    assert mesh.has(ids)
    assert workflows.reconcile() == report()


def test_a_superseded_token_is_marked_first_and_deleted_when_its_tasks_have_gone(
    workflows: Workflows, mesh: MeshState
) -> None:
    before = mesh.add_service("web", tasks=0)
    task = mesh.run_task("web")
    mesh.secrets.put("acme-web", mesh.service_token("web").to_secret_string())
    assert workflows.reconcile() == report(found=1, retired=1)
    mesh.clock.let_pass(minutes=5)
    mesh.run_task("web", created_at=mesh.clock.moment)
    assert workflows.reconcile() == report()
    mesh.ecs.stop(task)
    assert workflows.reconcile() == report(found=1, deleted=1)
    assert not mesh.has(before)


def test_a_token_that_a_person_makes_current_again_is_a_token_in_use(
    workflows: Workflows, mesh: MeshState
) -> None:
    before = mesh.add_service("web", tasks=0)
    mesh.run_task("web")
    workflows.switch(WEB)
    after = mesh.ids()
    mesh.secrets.put("acme-web", before.to_secret_string())
    # Its mark goes; the other one gets one.
    assert workflows.reconcile() == report(found=1, repaired=1, retired=1)
    mesh.clock.let_pass(minutes=5)
    mesh.run_task("web", created_at=mesh.clock.moment)
    assert workflows.reconcile() == report()
    assert mesh.has(before)
    assert mesh.has(after)
