"""A table with rows."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "one", None


def upgrade():
    table = op.create_table(
        "customer",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("kind", sa.Enum("small", "large", name="customer_kind")),
    )
    op.bulk_insert(table, [{"name": f"c{n}", "kind": "small"} for n in range(100)])


def downgrade():
    op.drop_table("customer")
    op.execute("drop type customer_kind")
