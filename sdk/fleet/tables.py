"""The server's tables. Seconds are of the server's clock, since 1970; sha256 are hexadecimal.

What changes with every poll stands apart (`presence`), so that a poll writes one short row. Who is
asked for by name alone has the name in its key; a fleet's own state is told by what devices said.
docs/adr/0018 says why these and no others.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A key that counts itself: SQLite does that for its own integer type alone."""

secret = sa.Table(
    "secret",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
"""What the processes of one server share: its name, the key of its nonces."""

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("until_s", sa.Double, nullable=False),
)
"""Work that one process does for all: the rollouts' next steps, the timestamp."""

api_key = sa.Table(
    "api_key",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("made_s", sa.Double, nullable=False),
    sa.Column("revoked_s", sa.Double),
)

enrolment_token = sa.Table(
    "enrolment_token",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("group_name", sa.String(64)),
    sa.Column("made_s", sa.Double, nullable=False),
    sa.Column("made_by", sa.String(200), nullable=False),
    sa.Column("expires_s", sa.Double, nullable=False),
    sa.Column("used_s", sa.Double),
    sa.Column("used_by", sa.String(64)),
)

announced_key = sa.Table(
    "announced_key",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("public_key", sa.String(64), primary_key=True),
    sa.Column("group_name", sa.String(64)),
    sa.Column("made_s", sa.Double, nullable=False),
)
"""Keys of devices that are accepted without a token."""

device_group = sa.Table(
    "device_group",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("made_s", sa.Double, nullable=False),
)

device = sa.Table(
    "device",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False),
    sa.Column("previous_key", sa.LargeBinary),
    sa.Column("standing", sa.String(16), nullable=False),
    sa.Column("why", sa.String(500), nullable=False, server_default=""),
    sa.Column("group_name", sa.String(64)),
    sa.Column("enrolled_s", sa.Double, nullable=False),
    sa.Column("fingerprint", sa.JSON),
    sa.Column("fingerprint_sha256", sa.String(64)),
    sa.Column("hardware", sa.String(100), nullable=False, server_default=""),
    sa.Index("ix_device_tenant", "tenant", "standing", "group_name"),
)

presence = sa.Table(
    "presence",
    metadata,
    sa.Column("device_id", sa.String(64), primary_key=True),
    sa.Column("request_seq", sa.BigInteger, nullable=False),
    sa.Column("signed_s", sa.Double, nullable=False),
    sa.Column("conflict_s", sa.Double),
    sa.Column("heard_s", sa.Double),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("boot_id", sa.String(200), nullable=False),
    sa.Column("agent", sa.String(200), nullable=False),
    sa.Column("metadata_version", sa.BigInteger),
    sa.Column("metadata_age_s", sa.BigInteger),
    sa.Column("reports_waiting", sa.Integer, nullable=False),
    sa.Column("models_sha256", sa.String(64), nullable=False),
)
"""What a device said last."""

device_model = sa.Table(
    "device_model",
    metadata,
    sa.Column("device_id", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(200), primary_key=True),
    sa.Column("running_sha256", sa.String(64)),
    sa.Column("release", sa.String(200)),
    sa.Column("variant", sa.String(200)),
    sa.Column("slot", sa.String(200)),
    sa.Column("previous_sha256", sa.String(64)),
    sa.Column("activated_sha256", sa.String(64)),
    sa.Column("confirmed_sha256", sa.String(64)),
    sa.Column("changed_s", sa.Double, nullable=False),
    sa.Index("ix_device_model_model", "model", "running_sha256"),
)
"""What a device runs, has activated and has confirmed, each by its manifest."""

rollout = sa.Table(
    "rollout",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("release", sa.String(200), nullable=False),
    sa.Column("release_counter", sa.BigInteger, nullable=False),
    sa.Column("release_path", sa.String(300), nullable=False),
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("group_name", sa.String(64)),
    sa.Column("device_id", sa.String(64)),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("unfit", sa.JSON, nullable=False),
    sa.Column("gates", sa.JSON, nullable=False),
    sa.Column("deadline_s", sa.Integer, nullable=False),
    sa.Column("assignment_seq", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("stage_s", sa.Double, nullable=False),
    sa.Column("reason", sa.String(500), nullable=False, server_default=""),
    sa.Column("acknowledged", sa.JSON, nullable=False),
    sa.Column("judged", sa.JSON),
    sa.Column("waived", sa.JSON),
    sa.Column("reverts", sa.String(64)),
    sa.Column("made_s", sa.Double, nullable=False),
    sa.Column("made_by", sa.String(200), nullable=False),
    sa.Column("changed_s", sa.Double, nullable=False),
    sa.Index("ix_rollout_tenant", "tenant", "state"),
)

action = sa.Table(
    "action",
    metadata,
    sa.Column("device_id", sa.String(64), primary_key=True),
    sa.Column("rollout_id", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("assignment_seq", sa.BigInteger, nullable=False),
    sa.Column("hardware", sa.String(100), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16)),
    sa.Column("reason", sa.String(2000), nullable=False, server_default=""),
    sa.Column("journal_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("assigned_s", sa.Double, nullable=False),
    sa.Column("handed_s", sa.Double),
    sa.Column("heard_s", sa.Double),
    sa.Column("over_s", sa.Double),
    sa.Column("before_sha256", sa.String(64)),
    sa.Column("envelope", sa.LargeBinary),
    sa.Column("envelope_until_s", sa.Double),
    sa.Index(
        "ix_action_device_id",
        "device_id",
        sqlite_where=sa.text("status = 'open'"),
        postgresql_where=sa.text("status = 'open'"),
    ),
    sa.Index("ix_action_rollout_id", "rollout_id"),
)
"""A device's share of a rollout. `status`: open, over, or called off before the device did anything
that lasts; `state` is what the device said. Whether work that is open may be done now is told by
the state of its rollout, so that a word about a rollout is one row. Its name is `action_id`."""


def action_id(rollout_id: str, device_id: str, attempt: int = 1) -> str:
    """How an action is called on its device, which does each once.

    >>> action_id("r1", "d"), action_id("r1", "d", 2)
    ('r1-d', 'r1.2-d')
    """
    again = f".{attempt}" if attempt > 1 else ""
    return f"{rollout_id}{again}-{device_id}"


def rollout_of(name: str) -> str:
    """The rollout of an action, by its name; anything else where a device made the name up.

    >>> rollout_of("r1.2-d")
    'r1'
    """
    return name.partition("-")[0].partition(".")[0]


OPEN = sa.text("action.status = 'open'")
"""Written out, so that the index of what is open serves."""

report = sa.Table(
    "report",
    metadata,
    sa.Column("id", _Number, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("device_id", sa.String(64), nullable=False),
    sa.Column("action_id", sa.String(200), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("journal_seq", sa.BigInteger, nullable=False),
    sa.Column("received_s", sa.Double, nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("release", sa.String(200)),
    sa.Column("variant", sa.String(200)),
    sa.Column("manifest_sha256", sa.String(64)),
    sa.Column("fingerprint_sha256", sa.String(64), nullable=False),
    sa.Column("hardware", sa.String(100), nullable=False),
    sa.Column("reason", sa.String(2000), nullable=False),
    sa.Column("figures", sa.JSON, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("device_id", "action_id", "state"),
    sa.Index("ix_report_tenant", "tenant", "id"),
)
"""What devices have signed about their actions; `figures` are those that were checked."""

figure = sa.Table(
    "figure",
    metadata,
    sa.Column("rollout_id", sa.String(64), primary_key=True),
    sa.Column("device_id", sa.String(64), primary_key=True),
    sa.Column("gate", sa.String(32), primary_key=True),
    sa.Column("hardware", sa.String(100), nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("received_s", sa.Double, nullable=False),
    sa.Index("ix_figure_rollout_id", "rollout_id", "gate", "hardware", "value"),
)
"""What gates are held against: one figure for each device of a rollout, the last that it told."""

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", _Number, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("at_s", sa.Double, nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("did", sa.String(64), nullable=False),
    sa.Column("about", sa.JSON, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Index("ix_audit_tenant", "tenant", "id"),
)
"""Who changed what."""
