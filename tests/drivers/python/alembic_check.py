"""Alembic: up, down and up again; a migration that fails; two migrators at once."""

import pathlib
import subprocess
import sys

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from checks import check, run

FOLDER = pathlib.Path(__file__).parent / "alembic_project"


def config(driver="psycopg"):
    made = Config(stdout=open("/dev/null", "w"))
    made.set_main_option("script_location", str(FOLDER))
    made.set_main_option("sqlalchemy.url", f"postgresql+{driver}://")
    return made


def ask(sql):
    engine = sa.create_engine("postgresql+psycopg://")
    with engine.connect() as connection:
        answer = connection.scalar(sa.text(sql))
    engine.dispose()
    return answer


@check
def up_and_down():
    """Upgrade, downgrade and upgrade again, over psycopg 3 and psycopg2."""
    for driver in ("psycopg", "psycopg2"):
        command.upgrade(config(driver), "head")
        assert ask("select version_num from alembic_version") == "three"
        assert ask("select count(*) from customer where note <> 'none'") == 10
        command.downgrade(config(driver), "one")
        assert ask("select count(*) from pg_indexes where indexname = 'customer_name'") == 0
        command.upgrade(config(driver), "head")
        command.downgrade(config(driver), "base")
        assert ask("select count(*) from alembic_version") == 0


@check
def one_after_another():
    """Several migrators at once wait for each other, and every step is done once."""
    script = "from alembic_check import config, command; command.upgrade(config(), 'head')"
    running = [subprocess.Popen([sys.executable, "-c", script], cwd=FOLDER.parent) for _ in range(3)]
    assert [one.wait(60) for one in running] == [0, 0, 0]
    assert ask("select count(*) from customer") == 100
    assert ask("select count(*) from pg_locks where locktype = 'advisory'") == 0


@check
def killed():
    """The lock of a migrator that is killed is free at once."""
    script = (
        "import sqlalchemy as sa, time; c = sa.create_engine('postgresql+psycopg://').connect();"
        "c.execute(sa.text('select pg_advisory_lock(20261121)')); c.commit(); print('held', flush=True); time.sleep(60)"
    )
    one = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert one.stdout.readline() == b"held\n"
    one.kill()
    one.wait()
    command.downgrade(config(), "base")


if __name__ == "__main__":
    run()
