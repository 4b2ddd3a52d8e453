"""CloudFormation: deployments that take effect, take their time, and roll back.

moto reads templates well, but creates a stack within the request that asks for it, reports success
whatever happened, ignores custom resources' answers, and loses resources that it can not update.
Here a deployment runs in a thread of its own and in the order that the references in the template
demand; each resource has its events; a failure undoes what was done. moto's parser still resolves
the template, and its models still stand for the resource types that
``local.cloud.cloudformation_types`` does not know.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any

import yaml
from moto.cloudformation import models, parsing, responses
from moto.cloudformation.exceptions import AlreadyExistsException, CloudFormationError
from moto.cloudformation.models import ChangeSet, CloudFormationBackend, Event, Stack
from moto.cloudformation.parsing import OutputMap, ResourceMap
from moto.cloudformation.utils import generate_stack_id

from local.cloud.cloudformation_types import (
    HANDLERS,
    ClientFactory,
    Context,
    Handler,
    Ignored,
    Properties,
    ReplacementNeededError,
    delete_route_table,
    references,
)
from local.cloud.custom_resources import CustomResourceHandler, Invoker, PendingResponses
from local.cloud.patching import replaced

_LOG = logging.getLogger(__name__)

# How long a request that starts a deployment waits for its end before it is answered. The CDK CLI
# looks every five seconds, and first at once: a deployment that is over by then costs no wait.
_ANSWER_AFTER_SECONDS = 20.0
# Custom resources; each waits for its answer.
_MOST_AT_ONCE = 8
_FINAL = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "ROLLBACK_COMPLETE"}


class ChangeSetNotFoundError(CloudFormationError):
    """The answer that the CDK CLI expects before it creates a change set."""

    code = "ChangeSetNotFound"


class DeploymentError(Exception):
    """A resource could not be created, changed or deleted; says which and why."""


class CloudFormation:
    """Deploys the stacks of one cloud. Use it as ``with cloudformation.connected():``."""

    def __init__(
        self, *, client: ClientFactory, responses: PendingResponses, invoke: Invoker
    ) -> None:
        self._client = client
        self._responses = responses
        self._invoke = invoke
        self._threads: list[threading.Thread] = []

    @contextmanager
    def connected(self) -> Iterator[None]:  # noqa: C901 - one replacement after the other
        """Let moto's CloudFormation deploy this way within the context."""
        engine = self
        # Abstract to the type checker only: moto leaves two methods of its base class out.
        stack_class: Any = Stack
        with ExitStack() as patches:

            def create_stack(  # noqa: PLR0917 - moto's signature
                self: CloudFormationBackend,
                name: str,
                template: str,
                parameters: dict[str, Any],
                notification_arns: list[str] | None = None,
                tags: dict[str, str] | None = None,
                role_arn: str | None = None,
                enable_termination_protection: bool | None = False,  # noqa: FBT001, FBT002
                timeout_in_mins: int | None = None,
                stack_policy_body: str | None = None,
            ) -> Stack:
                if any(stack.name == name for stack in self.stacks.values()):
                    raise AlreadyExistsException(f"Stack {name} already exists")
                stack: Stack = stack_class(
                    stack_id=generate_stack_id(name, self.region_name, self.account_id),
                    name=name,
                    template={},
                    parameters=parameters,
                    account_id=self.account_id,
                    region_name=self.region_name,
                    notification_arns=notification_arns,
                    tags=tags,
                    role_arn=role_arn,
                    cross_stack_resources=self.exports,
                    enable_termination_protection=enable_termination_protection,
                    timeout_in_mins=timeout_in_mins,
                    stack_policy_body=stack_policy_body,
                )
                self.stacks[stack.stack_id] = stack
                engine._deploy(self, stack, template, parameters)
                return stack

            def update_stack(  # noqa: PLR0917 - moto's signature
                self: CloudFormationBackend,
                name: str,
                template: str,
                role_arn: str | None,
                parameters: list[dict[str, Any]],
                tags: dict[str, str] | None,
            ) -> Stack:
                stack = self.get_stack(name)
                resolved = self._resolve_update_parameters(
                    instance=stack, incoming_params=parameters
                )
                stack.role_arn = role_arn
                stack.tags = stack.tags if tags is None else tags
                engine._deploy(self, stack, template, resolved)
                return stack

            def create_change_set(
                self: CloudFormationBackend, stack_name: str, *args: Any, **kwargs: Any
            ) -> tuple[str, str]:
                # A stack left over in review is used again, not doubled.
                for stack in list(self.stacks.values()):
                    if stack.name != stack_name or kwargs.get("change_set_type") != "CREATE":
                        continue
                    if stack.status != "REVIEW_IN_PROGRESS":
                        raise AlreadyExistsException(f"Stack {stack_name} already exists")
                    del self.stacks[stack.stack_id]
                answer: tuple[str, str] = original_create_change_set(
                    self, stack_name, *args, **kwargs
                )
                return answer

            def execute_change_set(
                self: CloudFormationBackend, change_set_name: str, stack_name: str | None = None
            ) -> None:
                change_set = _change_set(self, change_set_name, stack_name)
                stack = self.stacks[change_set.stack_id]
                stack.cross_stack_resources = self.exports
                stack.resource_map.cross_stack_resources = self.exports
                stack.role_arn = change_set.role_arn
                stack.tags = change_set.tags or stack.tags
                change_set.execution_status = "EXECUTE_COMPLETE"
                engine._deploy(self, stack, change_set.template, change_set.parameters)

            def delete_stack(self: CloudFormationBackend, name_or_stack_id: str) -> None:
                for stack in list(self.stacks.values()):
                    if name_or_stack_id in (stack.name, stack.stack_id):
                        engine._start(stack, _Deletion(engine, self, stack).run)

            def delete_change_set(self: CloudFormationBackend, change_set_name: str) -> None:
                # Clients delete a change set that may not be there; moto fails over that.
                for change_set_id, change_set in list(self.change_sets.items()):
                    if change_set_name in (change_set_id, change_set.change_set_name):
                        del self.change_sets[change_set_id]

            def resolve_update_parameters(
                self: CloudFormationBackend,
                instance: Stack,
                incoming_params: list[dict[str, Any]],
            ) -> dict[str, Any]:
                del self
                previous = instance.stack_parameters
                return {
                    parameter["ParameterKey"]: previous[parameter["ParameterKey"]]
                    if parameter.get("UsePreviousValue")
                    else parameter["ParameterValue"]
                    for parameter in incoming_params
                }

            for name, function in (
                ("_resolve_update_parameters", resolve_update_parameters),
                ("delete_change_set", delete_change_set),
                ("describe_change_set", _change_set),
                ("create_stack", create_stack),
                ("update_stack", update_stack),
                ("execute_change_set", execute_change_set),
                ("delete_stack", delete_stack),
            ):
                patches.enter_context(replaced(CloudFormationBackend, name, function))
            original_create_change_set = patches.enter_context(
                replaced(CloudFormationBackend, "create_change_set", create_change_set)
            )
            for patched in (
                _passive_stacks(),
                _json_before_yaml(),
                _known_types(self),
                _honest_summaries(),
                _stack_outputs(),
            ):
                patches.enter_context(patched)
            patches.callback(self._join)
            patches.callback(self._responses.stop)
            yield

    def handler(self, type_: str) -> Handler | None:
        """Return the handler of a resource type; None leaves it to moto."""
        if _is_custom(type_):
            return CustomResourceHandler(type_, self._responses, self._invoke)
        if type_ in HANDLERS:
            return HANDLERS[type_]
        return None if type_ in parsing.get_model_map() else Ignored()

    def context(self, stack: Stack) -> Context:
        """Describe ``stack`` to the handlers."""
        return Context(
            self._client, stack.stack_id, stack.name, stack.account_id, stack.region_name
        )

    def _deploy(
        self,
        backend: CloudFormationBackend,
        stack: Stack,
        template: str,
        parameters: dict[str, Any],
    ) -> None:
        deployment = _Deployment(self, backend, stack, template, parameters)
        self._start(stack, deployment.run)

    def _start(self, stack: Stack, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"cloudformation-{stack.name}", daemon=True)
        self._threads = [known for known in self._threads if known.is_alive()] + [thread]
        thread.start()
        thread.join(_ANSWER_AFTER_SECONDS)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=5)


class _Work:
    """What creating, updating and deleting a stack have in common."""

    def __init__(
        self, engine: CloudFormation, backend: CloudFormationBackend, stack: Stack
    ) -> None:
        self.engine = engine
        self.backend = backend
        self.stack = stack
        self.resources: ResourceMap = stack.resource_map
        # The properties, references resolved, with which each resource was last deployed.
        self.deployed: dict[str, Properties] = stack.__dict__.setdefault("local_deployed", {})
        # What this operation has made: it is deleted by it only to roll back.
        self.created: list[str] = []
        # Custom resources that others have taken the place of, each with its type and properties.
        self.replaced: list[tuple[Any, str, Properties]] = []

    @property
    def parsed(self) -> dict[str, Any]:
        parsed: dict[str, Any] = self.resources._parsed_resources
        return parsed

    def stack_event(self, status: str, reason: str | None = None) -> None:
        # Who sees the status finds the reason, and the event, there.
        self.stack.__dict__["stack_status_reason"] = reason
        self.stack._add_stack_event(status, resource_status_reason=reason)
        self.stack.status = status

    def resource_event(
        self, logical_id: str, type_: str, status: str, reason: str | None = None
    ) -> None:
        resource = self.parsed.get(logical_id)
        physical_id = getattr(resource, "physical_resource_id", "") or ""
        statuses = self.stack.__dict__.setdefault("local_statuses", {})
        statuses[logical_id] = status
        self.stack.events.append(
            Event(
                stack_id=self.stack.stack_id,
                stack_name=self.stack.name,
                logical_resource_id=logical_id,
                physical_resource_id=str(physical_id),
                resource_type=type_,
                resource_status=status,
                resource_status_reason=reason,
                resource_properties=None,
            )
        )

    def delete(self, logical_id: str, definition: dict[str, Any]) -> None:
        """Delete a resource unless its policy is to keep it."""
        type_ = definition["Type"]
        if self._is_retained(logical_id, definition):
            self.resource_event(logical_id, type_, "DELETE_SKIPPED")
            self.parsed.pop(logical_id, None)
            self.deployed.pop(logical_id, None)
            return
        self.resource_event(logical_id, type_, "DELETE_IN_PROGRESS")
        try:
            self.delete_now(self.parsed[logical_id], type_, self.deployed.get(logical_id, {}))
        except Exception as error:
            self.resource_event(logical_id, type_, "DELETE_FAILED", _reason(error))
            raise DeploymentError(f"{logical_id}: {_reason(error)}") from error
        self.resource_event(logical_id, type_, "DELETE_COMPLETE")
        self.parsed.pop(logical_id, None)
        self.deployed.pop(logical_id, None)

    def _is_retained(self, logical_id: str, definition: dict[str, Any]) -> bool:
        """Whether the policy keeps a resource, which it does in a rollback, too.

        Only `RetainExceptOnCreate` lets go of what the operation that is rolled back has made.
        https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
        """
        policy = definition.get("DeletionPolicy")
        return policy == "Retain" or (
            policy == "RetainExceptOnCreate" and logical_id not in self.created
        )

    def delete_all(self, definitions: dict[str, Any]) -> list[str]:
        """Delete resources in the reverse of the order of creation; return what went wrong.

        What a resource that could not be deleted still needs is kept with it.
        """
        failures: list[str] = []
        kept: set[str] = set()
        for logical_id in reversed(deployment_order(definitions)):
            if logical_id not in kept:
                try:
                    self.delete(logical_id, definitions[logical_id])
                    continue
                except DeploymentError as error:
                    failures.append(str(error))
            kept |= needs(definitions[logical_id])
        return failures

    def delete_now(self, resource: Any, type_: str, properties: Properties) -> None:
        """Delete one resource, whether or not the stack still has it."""
        handler = self.engine.handler(type_)
        if handler is not None:
            handler.delete(self.engine.context(self.stack), resource, properties)
            return
        if type_ == "AWS::EC2::RouteTable":
            delete_route_table(self.engine.context(self.stack), resource.physical_resource_id)
            return
        # moto's models have either a method or a class method for this.
        if callable(getattr(resource, "delete", None)):
            try:
                resource.delete(self.stack.account_id, self.stack.region_name)
            except TypeError:
                # A `delete` of another kind, which is not for CloudFormation.
                self._delete_by_class(resource, type_, properties)
        else:
            self._delete_by_class(resource, type_, properties)

    def _delete_by_class(self, resource: Any, type_: str, properties: Properties) -> None:
        parsing.parse_and_delete_resource(
            resource.physical_resource_id,
            {"Type": type_, "Properties": properties},
            self.stack.account_id,
            self.stack.region_name,
        )


class _Deployment(_Work):
    """Brings a stack, new or old, to what a template says."""

    def __init__(
        self,
        engine: CloudFormation,
        backend: CloudFormationBackend,
        stack: Stack,
        template: str,
        parameters: dict[str, Any],
    ) -> None:
        super().__init__(engine, backend, stack)
        self.template = template
        self.parameters = parameters
        self.is_update = stack.status in _FINAL
        self.kind = "UPDATE" if self.is_update else "CREATE"
        # What to go back to.
        self.old_template = stack.template
        self.old_parameters = stack.parameters
        self.old_definitions: dict[str, Any] = self.resources._resource_json_map
        # Before the thread starts: a client that asks next must not see the stack as finished.
        self.stack_event(f"{self.kind}_IN_PROGRESS", "User Initiated")

    def run(self) -> None:
        """Deploy; roll back if that fails. Runs in a thread of its own."""
        try:
            self._apply(self.template, self.parameters)
        except Exception as error:  # noqa: BLE001 - it becomes the stack's reason
            if not isinstance(error, DeploymentError):
                _LOG.exception("Stack %s could not be deployed", self.stack.name)
            self._roll_back(_reason(error))
            return
        self._remember(self.template, self.parameters)
        self.stack_event(f"{self.kind}_COMPLETE")

    def _apply(self, template: str, parameters: dict[str, Any]) -> None:
        definitions = self._load(template, parameters)
        wanted = {
            logical_id: definition
            for logical_id, definition in definitions.items()
            if self._is_wanted(definition)
        }
        self._bring_all_about(wanted)
        for replaced_ in self.replaced:
            self._clean_up(*replaced_)
        gone = {
            logical_id: definition
            for logical_id, definition in self.old_definitions.items()
            if logical_id not in wanted and logical_id in self.deployed
        }
        if failures := self.delete_all(gone):
            # The deployment itself has succeeded; what remains is no longer the stack's.
            _LOG.warning("Stack %s leaves behind: %s", self.stack.name, "; ".join(failures))
        # Exports need every resource; an error in one fails the deployment, as on AWS.
        outputs = OutputMap(self.resources, self.resources._template, self.stack.stack_id)
        exports = {export.name: export for export in outputs.exports}
        for name, export in exports.items():
            known = self.backend.exports.get(name)
            if known is not None and known.exporting_stack_id != self.stack.stack_id:
                raise DeploymentError(
                    f"Export with name {name} is already exported by stack "
                    f"{known.exporting_stack_id}."
                )
            self.backend.exports[name] = export
        for name, export in list(self.backend.exports.items()):
            if export.exporting_stack_id == self.stack.stack_id and name not in exports:
                del self.backend.exports[name]

    def _load(self, template: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Let moto's parser take in the new template."""
        parsed = _FastYaml.load(template)
        self.stack.description = parsed.get("Description")
        resources = self.resources
        resources._template = parsed
        resources._resource_json_map = parsed["Resources"]
        resources.input_parameters = parameters
        resources.load_mapping()
        resources.load_parameters()
        resources.load_conditions()
        definitions: dict[str, Any] = parsed["Resources"]
        return definitions

    def _is_wanted(self, definition: dict[str, Any]) -> bool:
        condition = definition.get("Condition")
        return condition is None or bool(self.resources.lazy_condition_map[condition])

    def _bring_all_about(self, wanted: dict[str, Any]) -> None:
        """Create or change what is not yet as wanted, each when all that it needs is there.

        Whatever is ready goes on while custom resources take their time: one may wait for
        something that the template makes, without referring to it.
        """
        waiting = {
            logical_id: needs(wanted[logical_id]) & wanted.keys()
            for logical_id in deployment_order(wanted)
        }
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(_MOST_AT_ONCE, "custom-resource") as pool:
            while waiting or running:
                ready = [logical_id for logical_id, needed in waiting.items() if not needed]
                custom = [each for each in ready if _is_custom(wanted[each]["Type"])]
                if plain := [each for each in ready if each not in custom]:
                    self._bring_about(plain[0], wanted[plain[0]])
                    finished = [plain[0]]
                    del waiting[plain[0]]
                elif custom:
                    del waiting[custom[0]]
                    future = pool.submit(self._bring_about, custom[0], wanted[custom[0]])
                    running[future] = custom[0]
                    continue
                else:
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        future.result()
                    finished = [running.pop(future) for future in ended]
                for needed in waiting.values():
                    needed.difference_update(finished)

    def _bring_about(self, logical_id: str, definition: dict[str, Any]) -> None:
        """Create or change one resource if it is not yet as wanted."""
        type_ = definition["Type"]
        is_new = logical_id not in self.deployed
        action = "CREATE" if is_new else "UPDATE"
        resolved: Properties = {}
        try:
            resolved = parsing.clean_json(definition.get("Properties", {}), self.resources) or {}
            if not is_new:
                self._check_type(logical_id, type_)
            if not is_new and resolved == self.deployed[logical_id]:
                return
            self.resource_event(logical_id, type_, f"{action}_IN_PROGRESS")
            if is_new:
                self.created.append(logical_id)
                self._create(logical_id, definition, resolved)
            else:
                self._update(logical_id, definition, resolved)
        except Exception as error:
            failed = getattr(error, "resource", None)
            if failed is not None and is_new:
                # A custom resource that has failed is deleted on the way back all the same.
                self.parsed[logical_id] = failed
                self.deployed[logical_id] = resolved
            self.resource_event(logical_id, type_, f"{action}_FAILED", _reason(error))
            if not isinstance(error, DeploymentError):
                _LOG.debug("%s of %s failed", action, logical_id, exc_info=True)
            raise DeploymentError(
                f"The following resource(s) failed to {action.lower()}: [{logical_id}]. "
            ) from error
        self.deployed[logical_id] = resolved
        self.resource_event(logical_id, type_, f"{action}_COMPLETE")

    def _check_type(self, logical_id: str, type_: str) -> None:
        if self.old_definitions.get(logical_id, {}).get("Type") != type_:
            raise DeploymentError(f"Update of resource type is not permitted: {logical_id}")

    def _create(self, logical_id: str, definition: dict[str, Any], resolved: Properties) -> None:
        type_ = definition["Type"]
        handler = self.engine.handler(type_)
        if isinstance(handler, Ignored) and type_ not in HANDLERS:
            _LOG.warning(
                "%s is not supported by the local cloud: %s of stack %s is skipped",
                type_,
                logical_id,
                self.stack.name,
            )
        if handler is not None:
            resource: Any = handler.create(self.engine.context(self.stack), logical_id, resolved)
            resource.cf_resource_type = type_
        else:
            resource = parsing.parse_and_create_resource(
                logical_id,
                {"Type": type_, "Properties": definition.get("Properties", {})},
                self.resources,
                account_id=self.stack.account_id,
                region_name=self.stack.region_name,
            )
        self.parsed[logical_id] = resource

    def _update(self, logical_id: str, definition: dict[str, Any], resolved: Properties) -> None:
        type_ = definition["Type"]
        old = self.parsed[logical_id]
        old_properties = self.deployed[logical_id]
        handler = self.engine.handler(type_)
        try:
            if handler is not None:
                context = self.engine.context(self.stack)
                new: Any = handler.update(context, old, old_properties, resolved)
            else:
                new = self._update_by_moto(logical_id, definition, resolved)
        except ReplacementNeededError:
            self._create(logical_id, definition, resolved)
            new = self.parsed[logical_id]
        else:
            new.cf_resource_type = type_
            new.logical_resource_id = logical_id
            self.parsed[logical_id] = new
        replaced_ = new.physical_resource_id != old.physical_resource_id
        if replaced_ and isinstance(handler, CustomResourceHandler):
            # Only when all has succeeded: an update that is rolled back goes back to it.
            self.replaced.append((old, type_, old_properties))
        # moto's own models delete what they replace.
        elif replaced_ and handler is not None:
            self._clean_up(old, type_, old_properties)

    def _clean_up(self, resource: Any, type_: str, properties: Properties) -> None:
        try:
            self.delete_now(resource, type_, properties)
        except Exception as error:  # noqa: BLE001 - clean-up never fails a deployment
            logical_id = resource.logical_resource_id
            _LOG.warning("%s: the replaced resource remains: %s", logical_id, _reason(error))

    def _update_by_moto(
        self, logical_id: str, definition: dict[str, Any], resolved: Properties
    ) -> Any:
        model = parsing.get_model_map()[definition["Type"]]
        if hasattr(model.update_from_cloudformation_json, "__isabstractmethod__"):
            raise ReplacementNeededError
        old = self.parsed[logical_id]
        name_property = parsing.resource_name_property_from_type(definition["Type"])
        return model.update_from_cloudformation_json(
            original_resource=old,
            # moto makes up a new name for each update, and would replace the resource.
            new_resource_name=resolved.get(name_property or "", old.physical_resource_id),
            cloudformation_json={"Type": definition["Type"], "Properties": resolved},
            account_id=self.stack.account_id,
            region_name=self.stack.region_name,
        )

    def _remember(self, template: str, parameters: dict[str, Any]) -> None:
        stack = self.stack
        stack.template = template
        stack.template_dict = self.resources._template
        stack.parameters = {**_defaults(stack.template_dict), **parameters}
        stack.output_map = OutputMap(self.resources, stack.template_dict, stack.stack_id)

    def _roll_back(self, reason: str) -> None:
        if not self.is_update:
            self.stack_event("ROLLBACK_IN_PROGRESS", f"{reason}Rollback requested by user.")
            status = self._undo_creations("ROLLBACK")
            self.stack.template = self.template
            self.stack_event(status)
            return
        self.stack_event("UPDATE_ROLLBACK_IN_PROGRESS", reason)
        try:
            self.replaced.clear()
            # The new definitions are what is to be taken back now; what they lack is still there.
            self.old_definitions = {**self.resources._resource_json_map, **self.old_definitions}
            self._apply(str(self.old_template), self.old_parameters)
        except Exception as error:  # noqa: BLE001 - it becomes the stack's reason
            self.stack_event("UPDATE_ROLLBACK_FAILED", _reason(error))
            return
        self._remember(str(self.old_template), self.old_parameters)
        self.stack_event("UPDATE_ROLLBACK_COMPLETE")

    def _undo_creations(self, kind: str) -> str:
        definitions = {
            logical_id: self.resources._resource_json_map[logical_id]
            for logical_id in self.created
            if logical_id in self.parsed
        }
        return f"{kind}_FAILED" if self.delete_all(definitions) else f"{kind}_COMPLETE"


class _Deletion(_Work):
    """Deletes a stack with all that it does not retain."""

    def __init__(
        self, engine: CloudFormation, backend: CloudFormationBackend, stack: Stack
    ) -> None:
        super().__init__(engine, backend, stack)
        self.stack_event("DELETE_IN_PROGRESS", "User Initiated")

    def run(self) -> None:
        """Delete, in the reverse of the order of creation. Runs in a thread of its own."""
        definitions = {
            logical_id: definition
            for logical_id, definition in self.resources._resource_json_map.items()
            if logical_id in self.parsed
        }
        if failures := self.delete_all(definitions):
            self.stack_event("DELETE_FAILED", "; ".join(failures))
            return
        for name, export in list(self.backend.exports.items()):
            if export.exporting_stack_id == self.stack.stack_id:
                del self.backend.exports[name]
        self.stack_event("DELETE_COMPLETE")
        self.backend.deleted_stacks[self.stack.stack_id] = self.stack
        self.backend.stacks.pop(self.stack.stack_id, None)


def _is_custom(type_: str) -> bool:
    return type_.startswith("Custom::") or type_ == "AWS::CloudFormation::CustomResource"


def deployment_order(definitions: dict[str, Any]) -> list[str]:
    """Order resources so that each comes after those that it refers to or depends on.

    Custom resources come as late as that allows. CloudFormation works on everything that is ready
    at the same time, so that a function which takes its time, or relies on something that the
    template does not tell, finds the rest of the stack there.

    Raises
    ------
    DeploymentError
        Resources refer to each other in a circle.
    """
    waiting = {
        logical_id: needs(definition) & set(definitions)
        for logical_id, definition in definitions.items()
    }
    order: list[str] = []
    while waiting:
        ready = [logical_id for logical_id, needed in waiting.items() if not needed]
        if not ready:
            raise DeploymentError(f"Circular dependency between resources: {sorted(waiting)}")
        plain = [id_ for id_ in ready if not _is_custom(definitions[id_]["Type"])]
        for logical_id in plain or ready[:1]:
            order.append(logical_id)
            del waiting[logical_id]
        for needed in waiting.values():
            needed.difference_update(order)
    return order


def needs(definition: dict[str, Any]) -> set[str]:
    """Name what a resource refers to or depends on; parameters are among it."""
    depends_on = definition.get("DependsOn", [])
    needed = {depends_on} if isinstance(depends_on, str) else set(depends_on)
    return needed | set(references(definition.get("Properties", {})))


def _defaults(template: dict[str, Any]) -> dict[str, Any]:
    declared = template.get("Parameters") or {}
    return {name: value["Default"] for name, value in declared.items() if "Default" in value}


def _change_set(
    backend: CloudFormationBackend, change_set_name: str, stack_name: str | None = None
) -> ChangeSet:
    for change_set_id, change_set in backend.change_sets.items():
        # Names of change sets are unique within a stack only.
        of_stack = stack_name in (None, change_set.stack_name, change_set.stack_id)
        if change_set_name == change_set_id or (
            change_set.change_set_name == change_set_name and of_stack
        ):
            return change_set
    raise ChangeSetNotFoundError(f"ChangeSet [{change_set_name}] does not exist")


def _reason(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error)
    return str(message) or type(error).__name__


# What moto does behind a deployment's back.


@contextmanager
def _passive_stacks() -> Iterator[None]:
    """Keep moto from creating a resource whenever somebody looks at its stack.

    Its map of resources creates what is missing, so that a client which asks for a stack's outputs
    during a deployment would create resources in the middle of it.
    """

    def get(self: ResourceMap, key: str) -> Any:
        if key not in self._parsed_resources and key not in self._resource_json_map:
            raise KeyError(key)
        return self._parsed_resources.get(key)

    original_outputs = vars(Stack)["outputs"]

    def outputs(self: Stack) -> list[dict[str, Any]] | None:
        return original_outputs.fget(self) if self.status in _FINAL else None

    def stack_resources(self: Stack) -> list[Any]:
        known = self.resource_map._parsed_resources
        return [
            known[logical_id]
            for logical_id in self.resource_map._resource_json_map
            if known.get(logical_id) is not None
        ]

    def stack_parameters(self: Stack) -> dict[str, Any]:
        # As they were given. moto hands out what it made of them, where the name of an SSM
        # parameter has become its value.
        return {**_defaults(self.template_dict), **self.parameters}

    def has_parameters(self: Stack, other: dict[str, Any]) -> bool:
        return self.stack_parameters == {**_defaults(self.template_dict), **other}

    with ExitStack() as patches:
        patches.enter_context(replaced(Stack, "stack_parameters", property(stack_parameters)))
        patches.enter_context(replaced(Stack, "has_parameters", has_parameters))
        patches.enter_context(replaced(ResourceMap, "__getitem__", get))
        patches.enter_context(replaced(Stack, "outputs", property(outputs)))
        patches.enter_context(replaced(Stack, "stack_resources", property(stack_resources)))
        yield


class _FastYaml:
    """Stands in for the module ``yaml`` where moto reads templates.

    A template that CDK wrote is JSON, which the YAML parser takes seconds to read.
    """

    Loader = yaml.Loader
    add_multi_constructor = staticmethod(yaml.add_multi_constructor)

    @staticmethod
    def load(text: str, Loader: Any = yaml.Loader) -> Any:  # noqa: N803 - yaml's own name
        """Parse JSON or YAML."""
        try:
            return json.loads(text)
        except ValueError:
            return yaml.load(text, Loader=Loader)  # noqa: S506 - moto adds CloudFormation's tags to it


@contextmanager
def _json_before_yaml() -> Iterator[None]:
    with replaced(models, "yaml", _FastYaml), replaced(responses, "yaml", _FastYaml):
        yield


@contextmanager
def _known_types(engine: CloudFormation) -> Iterator[None]:
    """Keep moto's checks of a template from refusing, or warning of, types that are known here."""
    original: Callable[[str], Any] = parsing.resource_class_from_type

    def resource_class(type_: str) -> Any:
        return original(type_) if engine.handler(type_) is None else _AnyAttribute

    with replaced(parsing, "resource_class_from_type", resource_class):
        yield


@contextmanager
def _stack_outputs() -> Iterator[None]:
    """Resolve `Fn::GetStackOutput`, CDK's reference to another stack, which moto does not know."""
    original: Callable[[Any, ResourceMap], Any] = parsing.clean_json

    def clean_json(value: Any, resources: ResourceMap) -> Any:
        if isinstance(value, dict) and len(value) == 1 and "Fn::GetStackOutput" in value:
            wanted = original(value["Fn::GetStackOutput"], resources)
            region = wanted.get("Region", resources._region_name)
            return _stack_output(resources._account_id, region, wanted)
        return original(value, resources)

    with replaced(parsing, "clean_json", clean_json):
        yield


def _stack_output(account: str, region: str, wanted: dict[str, str]) -> str:
    name, key = wanted["StackName"], wanted["OutputName"]
    for stack in list(models.cloudformation_backends[account][region].stacks.values()):
        if name in {stack.name, stack.stack_id}:
            for output in stack.outputs or []:
                if output["OutputKey"] == key:
                    return str(output["OutputValue"])
            raise DeploymentError(f"Output {key} of stack {name} does not exist")
    raise DeploymentError(f"Stack {name} does not exist")


class _AnyAttribute:
    """Answers the one question that moto asks of a type when it checks a template's outputs."""

    @staticmethod
    def has_cfn_attr(attribute: str) -> bool:
        """Leave it to the deployment to find out."""
        del attribute
        return True


@contextmanager
def _honest_summaries() -> Iterator[None]:
    """Report each resource's own status, where moto reports the stack's or a constant."""
    original = responses.StackResourceDTO.__init__

    def init(self: Any, stack: Stack, resource: Any) -> None:
        original(self, stack, resource)
        statuses = stack.__dict__.get("local_statuses", {})
        status = statuses.get(self.logical_resource_id, stack.status)
        self.resource_status = status
        self.timestamp = stack.creation_time

    with replaced(responses.StackResourceDTO, "__init__", init):
        yield
