"""What one process does for all: move rollouts on, heed revocations, keep timestamps fresh."""

from __future__ import annotations

import logging

from agent.errors import SlipwayError
from sdk.fleet.database import reading, writing
from sdk.fleet.server import Server
from sdk.fleet.store import rollouts
from sdk.fleet.store.shared import hold

log = logging.getLogger("slipway.fleet")
_HELD = 5.0
"""Ticks; a process that died is stood in for after so many."""


def chores(server: Server) -> None:
    """Do what is due, unless another process does.

    What goes wrong is logged, and tried again at the next tick.
    """
    try:
        now_s = server.now_s()
        with writing(server.engine) as connection:
            for_s = _HELD * server.settings.tick_s
            if not hold(connection, "chores", server.name, for_s, now_s):
                return
        follow_revocations(server)
        move_on(server)
        renew(server)
    except SlipwayError as error:
        log.warning("chores", extra={"what": error.what})


def move_on(server: Server) -> None:
    """Look at every rollout that runs, each in a transaction of its own."""
    with reading(server.engine) as connection:
        names = rollouts.running(connection)
    for name in names:
        with writing(server.engine) as connection:
            decision = rollouts.tick(connection, name, server.now_s())
        if decision is not None and decision.step != "wait":
            log.info(
                "rollout",
                extra={"rollout": name, "step": decision.step, "reason": decision.reason},
            )


def follow_revocations(server: Server) -> None:
    """Nobody is given a release any more that its signer took back."""
    for name, tenant in server.tenants.items():
        try:
            revoked = [one.manifest_sha256 for one in tenant.releases() if one.revoked]
        except SlipwayError as error:
            log.warning("releases not read", extra={"tenant": name, "what": error.what})
            continue
        if not revoked:
            continue
        with writing(server.engine) as connection:
            ended = rollouts.follow_revocations(connection, name, revoked, server.now_s())
        if ended:
            log.info("rollouts revoked", extra={"tenant": name, "rollouts": ended})


def renew(server: Server) -> None:
    """Sign the timestamps anew that are an hour old."""
    for name, tenant in server.tenants.items():
        try:
            if tenant.renew():
                log.info("timestamp signed", extra={"tenant": name})
        except SlipwayError as error:
            log.warning("timestamp not signed", extra={"tenant": name, "what": error.what})
