"""`/v1/admin`: releases, and how they go out."""

from __future__ import annotations

import collections

from fastapi import APIRouter

from agent.codec import encode
from sdk.fleet.database import reading, writing
from sdk.fleet.hardware import hardware_of
from sdk.fleet.refusals import RefusedError
from sdk.fleet.rules.fits import Fit, fit, too_few, words
from sdk.fleet.rules.rollout import Command, check
from sdk.fleet.rules.signed import check_not_looser
from sdk.fleet.server import Server
from sdk.fleet.store import access, overview, rollouts
from sdk.fleet.store.access import Caller
from sdk.fleet.web.admin_models import (
    Assign,
    Assigned,
    Fitting,
    Item,
    Items,
    Short,
    State,
)
from sdk.fleet.web.desk import ALWAYS, Desk, Limit, Name, Operator, Viewer, tenant_of, write

router = APIRouter(prefix="/v1/admin", tags=["rollouts"], responses=ALWAYS)


@router.get("/releases")
def releases(server: Desk, caller: Viewer, model: Short | None = None) -> Items:
    """What the repository holds, the newest of each model first."""
    found = tenant_of(server, caller).releases()
    return Items(items=[encode(one) for one in found if model in (None, one.model)])


@router.post("/rollouts")
def assign(server: Desk, caller: Operator, body: Assign) -> Assigned:
    """Assign a release; what it cannot reach is said before it starts."""
    return _assign(server, caller, body)


@router.get("/rollouts")
def list_rollouts(server: Desk, caller: Viewer, limit: Limit = 100) -> Items:
    """Rollouts, the newest first."""
    with reading(server.engine) as connection:
        return Items(items=overview.rollouts(connection, caller.tenant, limit))


@router.get("/rollouts/{rollout}")
def show_rollout(server: Desk, caller: Viewer, rollout: Name) -> Item:
    """How far a rollout has come, by hardware, and why devices refused it."""
    with reading(server.engine) as connection:
        return overview.rollout(connection, caller.tenant, rollout, server.now_s())


@router.post("/rollouts/{rollout}/{command}")
def command(server: Desk, caller: Operator, rollout: Name, command: Command) -> State:
    """Pause, resume, cancel or revert a rollout; said twice, it changes nothing more."""
    after = write(
        server, caller, f"rollout {command}", {"rollout": rollout},
        lambda connection: rollouts.command(
            connection, caller.tenant, rollout, command, caller.name, server.now_s()
        ),
    )  # fmt: skip
    return State(state=after)


def _assign(server: Server, caller: Caller, body: Assign) -> Assigned:
    if body.group is not None and body.device is not None:
        raise RefusedError("impossible", "A release goes to a group or to a device, not to both.")
    check(body.plan)
    groups = body.plan.groups
    if any(stage.group for stage in body.stages) and (body.group or body.device):
        raise RefusedError(
            "impossible",
            "Stages name groups, and so does the rollout, or it is for one device.",
            cause="It is not clear whom it is for.",
            remedy="Name groups in the stages alone, or in the rollout alone.",
        )
    tenant = tenant_of(server, caller)
    release = tenant.release(body.model, body.release)
    if tenant.is_revoked(release):
        raise RefusedError(
            "impossible",
            f"{body.model} {body.release} is revoked.",
            cause="Its signer took it back; no device would take it.",
            remedy="Assign another release: sdk fleet releases",
        )
    manifest = tenant.manifest(release)
    check_not_looser(manifest, body.gates, [stage.advance_if for stage in body.stages])
    with reading(server.engine) as connection:
        kinds = rollouts.kinds(connection, caller.tenant, body.group, body.device, groups)
        has_it = rollouts.count_running(
            connection, caller.tenant, release, body.group, body.device, groups
        )
    found = fit(manifest, kinds)
    by_hardware: collections.Counter[str] = collections.Counter()
    for kind in kinds:
        if kind.fingerprint_sha256 not in found.unfit:
            by_hardware[hardware_of(kind.fingerprint)] += kind.count
    fitting = Fitting(
        fits=found.fits,
        unknown=found.unknown,
        has_it=has_it,
        reasons=dict(found.reasons),
        unproven=too_few(body.plan, by_hardware)[:20],
    )
    if not found.fits + found.unknown:
        raise _nobody(body, found)
    if has_it >= found.fits + found.unknown:
        raise RefusedError(
            "conflict",
            f"{has_it} devices run {body.model} {body.release} already, and no other one could.",
            cause="It was assigned to them before.",
            remedy="Nothing is to be done: sdk fleet devices list",
        )
    if body.dry_run:
        return Assigned(rollout=None, fit=fitting)
    order = rollouts.Order(
        tenant=caller.tenant,
        model=body.model,
        release=body.release,
        release_counter=release.release_counter,
        release_path=release.path,
        manifest_sha256=release.manifest_sha256,
        group=body.group,
        device_id=body.device,
        plan=body.plan,
        gates=tuple(body.gates),
        deadline_s=body.deadline_s,
        made_by=caller.name,
        unfit=found.unfit,
    )
    with writing(server.engine) as connection:
        name = rollouts.begin(connection, order, server.now_s())
        about = {"rollout": name, **body.model_dump(mode="json", exclude={"dry_run"})}
        access.note(connection, caller, "release assigned", about, server.now_s())
    return Assigned(rollout=name, fit=fitting)


def _nobody(body: Assign, found: Fit) -> RefusedError:
    whom = f"the group {body.group}" if body.group else f"the device {body.device}"
    if body.group is None and body.device is None:
        whom = f"the groups {', '.join(body.plan.groups)}" if body.plan.groups else "this fleet"
    why = "; ".join(words(found)) or "there is no accepted device in it"
    return RefusedError(
        "impossible",
        f"No device of {whom} can run {body.model} {body.release}: {why}."[:1500],
        cause="The release was built for other hardware or runtimes.",
        remedy="Nothing was assigned. Build for these profiles, or assign it to others.",
    )
