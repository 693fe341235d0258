"""The bodies of the admin API, as operators and scripts see them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.manifest import Gate
from agent.updates.assignment import MOST_DEADLINE_S
from sdk.fleet.rules.rollout import Rollout, Stage, Threshold
from sdk.fleet.store.access import MOST_TOKEN_S, Role

Group = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$")]
"""As the agent's own configuration takes it."""
DeviceId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Short = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Body(BaseModel):
    """What is not known is refused: a misspelt option would be ignored otherwise."""

    model_config = ConfigDict(extra="forbid")


class NewToken(Body):
    """A token to be made."""

    group: Group | None = None
    valid_s: Annotated[float, Field(gt=0, le=MOST_TOKEN_S)] = MOST_TOKEN_S


class MadeToken(BaseModel):
    """The one time that a token is shown."""

    id: str
    token: str


class NewKey(Body):
    """A key of an operator, to be made."""

    name: Short
    role: Role = "operator"


class MadeKey(BaseModel):
    """The one time that a key is shown."""

    id: str
    key: str


class Announced(Body):
    """A device's public key that is let in without a token."""

    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Ed25519, 32 bytes in hexadecimal."""
    group: Group | None = None


class NewGroup(Body):
    """A group to be made."""

    name: Group


class Moved(Body):
    """The group that a device is to be in; null: none."""

    group: Group | None


class Why(Body):
    """For the device's record."""

    why: Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")] = ""


class Assign(Body):
    """A release to go out: to a group, a device, or all; in stages."""

    model: Short
    release: Short
    group: Group | None = None
    device: DeviceId | None = None
    stages: Annotated[list[Stage], Field(min_length=1, max_length=50)] = [Stage(share=1.0)]
    halt_if: Annotated[list[Threshold], Field(max_length=20)] = [Threshold(share=0.2, at_least=5)]
    on_halt: Literal["pause", "revert"] = "pause"
    gates: Annotated[list[Gate], Field(max_length=20)] = []
    """Beside the release's own, which they can tighten and never loosen."""
    deadline_s: Annotated[int, Field(gt=0, le=MOST_DEADLINE_S)] = 3600
    """Of the trial."""
    dry_run: bool = False
    """Only say whom it would reach."""

    @property
    def plan(self) -> Rollout:
        """How it goes out."""
        return Rollout(stages=tuple(self.stages), halt_if=tuple(self.halt_if), on_halt=self.on_halt)


class Fitting(BaseModel):
    """Which of the devices can run a release."""

    fits: int
    unknown: int
    has_it: int
    """Those of them that run it already: they are left alone."""
    reasons: dict[str, int]
    unproven: list[str] = []
    """Stages whose gates cannot be proven, of a kind of hardware with too few devices."""


class Assigned(BaseModel):
    """What became of it."""

    rollout: str | None
    """None of a dry run."""
    fit: Fitting


class Done(BaseModel):
    """It was done, or was so already."""

    done: bool = True


class State(BaseModel):
    """How a rollout stands now."""

    state: str


class Received(BaseModel):
    """A file that was written."""

    length: int


class Changes(Body):
    """Metadata that was signed elsewhere."""

    metadata: Annotated[dict[str, str], Field(min_length=1, max_length=50)]
    """Role, such as `model-minilm` -> its next metadata, as TUF has it."""


Item = dict[str, Any]


class Items(BaseModel):
    """A list; where there may be more, `after` asks for it."""

    items: list[Item]
    after: str | None = None
