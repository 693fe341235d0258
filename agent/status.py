"""What runs on this device, and whether it can be trusted to go on."""

from __future__ import annotations

from typing import Any

from agent.codec import encode
from agent.config import Config
from agent.errors import SlipwayError
from agent.home import Home
from agent.identity import fingerprint
from agent.sessions import formats, import_runtime


def status(home: Home) -> list[dict[str, Any]]:
    """One entry for each model, and one for what is under way."""
    found: list[dict[str, Any]] = []
    action = home.journal.unfinished()
    for model, slot in home.installed():
        last = home.journal.last(model)
        below = home.journal.number(f"revoked_below:{model}")
        counter = slot.manifest.release_counter or 0
        found.append({
            "model": model,
            "release": slot.manifest.release,
            "variant": slot.record.variant,
            "slot": slot.name,
            "state": last.state if last else None,
            "reason": last.reason if last else None,
            "revoked": counter < below or None,
        })
    if action is not None and action.state != "TRIAL":
        found.append({"model": action.model, "under way": action.state, "reason": action.reason})
    age = home.trust.age_s(home.now())
    return [*found, {"metadata_age_s": None if age is None else round(age)}]


def doctor(config: Config) -> list[dict[str, Any]]:
    """The fingerprint, the runtimes, and what is wrong with the state folder, if anything is."""
    found: list[dict[str, Any]] = [{"fingerprint": encode(fingerprint())}]
    for name in formats():
        try:
            import_runtime(name)
        except SlipwayError as error:
            found.append({"runtime": name, "missing": error.remedy})
        else:
            found.append({"runtime": name, "works": True})
    try:
        with Home(config) as home:
            found.append({"state": str(config.state), "device_id": home.device.device_id})
            if home.journal.was_damaged:
                found.append({"journal": "it was damaged and begun anew; what runs is as it was"})
    except SlipwayError as error:
        found.append({"state": str(config.state), "problem": error.what, "remedy": error.remedy})
    return found
