"""A migration of rows that has to see what the one before did."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "three", "two"


def upgrade():
    connection = op.get_bind()
    for (number,) in connection.execute(sa.text("select id from customer where id % 10 = 0")).all():
        connection.execute(sa.text("update customer set note = :note where id = :id"), {"note": f"n{number}", "id": number})
    op.execute("set local lock_timeout = '5s'")
    op.alter_column("customer", "note", nullable=True)


def downgrade():
    op.execute("update customer set note = 'none'")
    op.alter_column("customer", "note", nullable=False)
