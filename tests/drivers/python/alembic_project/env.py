"""Runs each migration in a transaction of its own, under an advisory lock of the session."""

import time

import sqlalchemy as sa
from alembic import context

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"))
with engine.connect() as connection:
    # As the recipe says for several instances that migrate at start: a session lock, beside the transactions. Tried,
    # not waited for: CREATE INDEX CONCURRENTLY waits for every statement that runs.
    while not connection.scalar(sa.text("select pg_try_advisory_lock(20261121)")):
        connection.commit()
        time.sleep(0.02)
    connection.commit()
    try:
        context.configure(connection=connection, target_metadata=None, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.execute(sa.text("select pg_advisory_unlock(20261121)"))
        connection.commit()
engine.dispose()
