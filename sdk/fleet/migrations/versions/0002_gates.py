"""What gates are held against: a figure for each device and gate, in place of the ratios alone."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ROWS = 500
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """The last ratio of each device is kept: of the others no rule ever reads."""
    figure = op.create_table(
        "figure",
        sa.Column("rollout_id", sa.String(length=64), nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("gate", sa.String(length=32), nullable=False),
        sa.Column("hardware", sa.String(length=100), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("received_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "device_id", "gate", name=op.f("pk_figure")),
    )
    op.create_index(
        "ix_figure_rollout_id", "figure", ["rollout_id", "gate", "hardware", "value"], unique=False
    )
    ratio, report = _ratio(), _report()
    last = (
        sa.select(sa.func.max(ratio.c.report_id).label("id"))
        .where(ratio.c.rollout_id.is_not(None))
        .group_by(ratio.c.rollout_id, ratio.c.device_id)
        .subquery()
    )
    kept = sa.select(
        ratio.c.rollout_id,
        ratio.c.device_id,
        sa.literal("latency@500"),
        ratio.c.hardware,
        ratio.c.value,
        report.c.received_s,
    ).join_from(last, ratio, ratio.c.report_id == last.c.id)
    kept = kept.join(report, report.c.id == ratio.c.report_id)
    names = ["rollout_id", "device_id", "gate", "hardware", "value", "received_s"]
    op.get_bind().execute(figure.insert().from_select(names, kept))
    op.drop_index("ix_ratio_rollout_id", table_name="ratio")
    op.drop_table("ratio")
    op.add_column("rollout", sa.Column("judged", sa.JSON(), nullable=True))
    op.add_column("rollout", sa.Column("waived", sa.JSON(), nullable=True))


def downgrade() -> None:
    """The ratios are made anew, from the reports that told them."""
    op.drop_column("rollout", "waived")
    op.drop_column("rollout", "judged")
    op.drop_index("ix_figure_rollout_id", table_name="figure")
    op.drop_table("figure")
    op.create_table(
        "ratio",
        sa.Column("report_id", _NUMBER, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("rollout_id", sa.String(length=64), nullable=True),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("hardware", sa.String(length=100), nullable=False),
        sa.Column("variant", sa.String(length=200), nullable=True),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("report_id", name=op.f("pk_ratio")),
    )
    op.create_index("ix_ratio_rollout_id", "ratio", ["rollout_id", "hardware"], unique=False)
    connection, report, after = op.get_bind(), _report(), 0
    while rows := connection.execute(
        sa.select(report)
        .where(report.c.id > after, report.c.state == "TRIAL")
        .order_by(report.c.id)
        .limit(_ROWS)
    ).all():
        after = rows[-1].id
        found = [made for row in rows if (made := _made_anew(connection, row))]
        if found:
            connection.execute(_ratio().insert(), found)


def _made_anew(connection: sa.Connection, row: sa.Row[tuple[object, ...]]) -> dict[str, object]:
    told = row.figures.get("ratio_to_running", {})
    if not {"value", "low", "high"} <= set(told):
        return {}
    action = sa.table("action", sa.column("rollout_id"), sa.column("device_id"))
    rollout_id = connection.execute(
        sa.select(action.c.rollout_id).where(
            action.c.rollout_id == row.action_id.partition("-")[0].partition(".")[0],
            action.c.device_id == row.device_id,
        )
    ).scalar()
    own = {name: getattr(row, name) for name in ("tenant", "device_id", "hardware", "variant")}
    bounds = {name: told[name] for name in ("value", "low", "high")}
    return {"report_id": row.id, "rollout_id": rollout_id, **own, **bounds}


def _ratio() -> sa.TableClause:
    names = ("report_id", "tenant", "rollout_id", "device_id", "hardware", "variant")
    return sa.table("ratio", *(sa.column(name) for name in (*names, "value", "low", "high")))


def _report() -> sa.TableClause:
    names = ("id", "tenant", "device_id", "action_id", "state", "received_s", "hardware", "variant")
    figures = sa.column("figures", sa.JSON())
    return sa.table("report", *(sa.column(name) for name in names), figures)
