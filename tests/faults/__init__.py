"""The life of a token under faults.

The real handlers run in the order of the real workflows, in one process and in virtual time,
against fakes. Every remote call is a scheduling point: a schedule says what goes wrong there, or
who acts first. After each run, and after one Reconciliation, the rules of docs/failure-modes.md
have to hold.

From the outside in:

* `__main__`, `report`, `replay`: `make faults`.
* `explore`: each single deviation, random ones, and those that let a missing fault hit a call.
* `run`, `invariants`: one schedule, and what has to hold after it.
* `scenarios`: what happens at the same time. A new one is a line in the table there.
* `simulation`: one world. Its parts: `world` (tasks and people), `step_functions` with `asl`,
  `lambda_functions` with `sandbox`, and the fakes `secrets_manager`, `ecs`, `consul_server` with
  `consul_transport`.
* `network`: how every remote call is carried, and where schedules decide. `kinds` lists the faults;
  `history` is for answers of a moment ago, `troubles` for services that fail for a while.
* `stage`, `virtual_time`: who acts, and when.
* `mutations`: the controller with a rule switched off, which the exploration has to notice.
"""
