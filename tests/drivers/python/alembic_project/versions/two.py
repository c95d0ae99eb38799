"""An index made concurrently, which needs a statement outside of transactions."""

from alembic import op

revision, down_revision = "two", "one"


def upgrade():
    with op.get_context().autocommit_block():
        op.create_index("customer_name", "customer", ["name"], postgresql_concurrently=True)
    op.execute("alter table customer add column note text not null default 'none'")


def downgrade():
    op.drop_column("customer", "note")
    with op.get_context().autocommit_block():
        op.drop_index("customer_name", table_name="customer", postgresql_concurrently=True)
