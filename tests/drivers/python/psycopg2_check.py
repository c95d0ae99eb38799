"""psycopg2: client-side parameters, named cursors, COPY, large objects, LISTEN, cancel, two-phase commit."""

import io
import os
import select
import threading
import time

import psycopg2
import psycopg2.extras
import psycopg2.pool
from psycopg2 import errors, extensions

from checks import check, raises, run


def connect(autocommit=False, **options):
    connection = psycopg2.connect("", **options)
    connection.autocommit = autocommit
    return connection


def value(connection, sql, *args):
    with connection.cursor() as cursor:
        cursor.execute(sql, args or None)
        return cursor.fetchone()[0]


def execute(connection, sql, *args):
    with connection.cursor() as cursor:
        cursor.execute(sql, args or None)
        return cursor.statusmessage


@check
def types():
    """Values of many types come back."""
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("select %s, %s, %s, %s, %s::int[], %s::bytea", (7, "ä€😀'\\", 1.5, None, [1, 2, None], b"\x00\xff"))
        row = cursor.fetchone()
    assert row[:5] == (7, "ä€😀'\\", row[2], None, [1, 2, None]) and bytes(row[5]) == b"\x00\xff", row
    connection.close()


@check
def transactions():
    """Transactions, savepoints, errors, the with-block."""
    connection = connect()
    execute(connection, "create table accounts (n int primary key)")
    connection.commit()
    with connection:
        execute(connection, "insert into accounts values (1)")
    raises(errors.UniqueViolation, execute, connection, "insert into accounts values (1)")
    raises(errors.InFailedSqlTransaction, execute, connection, "select 1")
    assert connection.info.transaction_status == extensions.TRANSACTION_STATUS_INERROR
    connection.rollback()
    execute(connection, "savepoint a")
    execute(connection, "insert into accounts values (2)")
    execute(connection, "rollback to savepoint a")
    connection.commit()
    assert value(connection, "select array_agg(n) from accounts") == [1]
    connection.close()


@check
def isolation():
    """Isolation levels, read-only and deferrable sessions."""
    one, two = connect(), connect()
    one.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
    for _ in range(3):
        assert value(one, "show transaction_isolation") == "serializable"
        assert value(two, "show transaction_isolation") == "read committed"
        one.commit(), two.commit()
    raises(errors.ReadOnlySqlTransaction, execute, one, "create table never (n int)")
    one.rollback()
    three = psycopg2.connect("")
    three.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=True)
    for _ in range(3):
        assert value(three, "show transaction_isolation") == "repeatable read"
        assert value(three, "show transaction_read_only") == "on"
    [connection.close() for connection in (one, two, three)]


@check
def cursors():
    """Named cursors, scrolled, and one that outlives its transaction."""
    connection = connect()
    with connection.cursor("plain") as cursor:
        cursor.itersize = 100
        cursor.execute("select generate_series(1, 1000)")
        assert sum(row[0] for row in cursor) == 500500
    with connection.cursor("scrolled", scrollable=True) as cursor:
        cursor.execute("select generate_series(1, 1000)")
        cursor.scroll(500, mode="absolute")
        assert cursor.fetchone() == (501,)
    connection.commit()
    held = connection.cursor("held", withhold=True)
    held.execute("select generate_series(1, 1000)")
    assert held.fetchone() == (1,)
    connection.commit()
    assert held.fetchmany(2) == [(2,), (3,)]
    connection.commit()
    held.close()
    connection.commit()
    connection.close()


@check
def copies():
    """COPY in both directions, and with bad data."""
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("create table copied (n int, s text)")
        text = "".join(f"{n}\trow {n}\n" for n in range(20000))
        cursor.copy_expert("copy copied from stdin", io.StringIO(text))
        out = io.StringIO()
        cursor.copy_expert("copy (select * from copied order by n) to stdout", out)
        assert out.getvalue() == text
    connection.commit()
    with connection.cursor() as cursor:
        error = raises(errors.InvalidTextRepresentation, cursor.copy_expert, "copy copied from stdin", io.StringIO("x\ty\n"))
        assert "line 1" in str(error)
    connection.rollback()
    assert value(connection, "select count(*) from copied") == 20000
    connection.close()


@check
def listening():
    """Notifications arrive, also one's own, and none after UNLISTEN."""
    one, two = connect(autocommit=True), connect(autocommit=True)
    execute(one, "listen talk")
    execute(two, "notify talk, 'from two'")
    execute(one, "notify talk, 'from one'")
    end = time.monotonic() + 10
    while len(one.notifies) < 2 and time.monotonic() < end:
        select.select([one], [], [], 1)
        one.poll()
    heard = [(n.payload, n.pid == one.info.backend_pid) for n in one.notifies]
    assert heard == [("from two", False), ("from one", True)], heard
    one.notifies.clear()
    execute(one, "unlisten talk")
    execute(two, "notify talk, 'unheard'")
    assert select.select([one], [], [], 0.3) == ([], [], [])
    one.close(), two.close()


@check
def cancel():
    """cancel() ends the statement and nothing else."""
    connection = connect()
    threading.Timer(0.3, connection.cancel).start()
    raises(errors.QueryCanceled, execute, connection, "select pg_sleep(20)")
    connection.rollback()
    connection.cancel()
    assert value(connection, "select 1") == 1
    connection.close()


@check
def settings():
    """Settings of two connections; a rolled back one; reset(); the client's encoding."""
    one, two = connect(options="-c timezone=Asia/Tokyo"), connect()
    execute(two, "set timezone = 'Africa/Nairobi'")
    two.commit()
    execute(two, "set timezone = 'Europe/Paris'")
    two.rollback()
    for _ in range(5):
        assert value(one, "show timezone") == "Asia/Tokyo"
        assert value(two, "show timezone") == "Africa/Nairobi"
        one.commit(), two.commit()
    assert two.get_parameter_status("TimeZone") == "Africa/Nairobi"
    two.reset()
    assert value(two, "show timezone") != "Africa/Nairobi"
    one.set_client_encoding("LATIN1")
    assert value(one, "select 'ä'") == "ä"
    assert one.encoding == "LATIN1"
    one.commit()
    assert value(two, "show client_encoding") == "UTF8"
    one.close(), two.close()


@check
def large_objects():
    """Large objects, which need one transaction and function calls."""
    connection = connect()
    made = connection.lobject(0, "wb")
    made.write(b"x" * 100_000)
    number = made.oid
    connection.commit()
    read = connection.lobject(number, "rb")
    read.seek(99_990)
    assert read.read() == b"x" * 10
    read.unlink()
    connection.commit()
    connection.close()


@check
def many_rows():
    """execute_values and execute_batch."""
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("create table bulk (n int, s text)")
        psycopg2.extras.execute_values(cursor, "insert into bulk values %s", [(n, str(n)) for n in range(3000)])
        psycopg2.extras.execute_batch(cursor, "update bulk set s = %s where n = %s", [("x", n) for n in range(300)])
        cursor.execute("select count(*) filter (where s = 'x'), count(*) from bulk")
        assert cursor.fetchone() == (300, 3000)
    connection.commit()
    connection.close()


@check
def sql_level_statements():
    """PREPARE, EXECUTE and DEALLOCATE over transactions."""
    one, two = connect(), connect()
    execute(one, "prepare p (int) as select $1 + 1")
    execute(two, "prepare p (int) as select $1 + 2")
    one.commit(), two.commit()
    for n in range(5):
        assert value(one, "execute p (%s)", n) == n + 1
        assert value(two, "execute p (%s)", n) == n + 2
        one.commit(), two.commit()
    execute(one, "deallocate p")
    raises(errors.InvalidSqlStatementName, execute, one, "execute p (1)")
    one.rollback()
    assert value(two, "execute p (1)") == 3
    one.close(), two.close()


@check
def two_phases():
    """Two-phase commit, finished by another connection."""
    one, two = connect(), connect()
    execute(one, "create table phases (n int)")
    one.commit()
    one.tpc_begin(one.xid(1, f"psycopg2 {os.getpid()}", "branch"))
    execute(one, "insert into phases values (1)")
    one.tpc_prepare()
    one.close()
    mine = [x for x in two.tpc_recover() if x.gtrid == f"psycopg2 {os.getpid()}"]
    assert len(mine) == 1
    two.rollback()
    two.tpc_commit(mine[0])
    assert value(two, "select count(*) from phases") == 1
    two.close()


@check
def a_pool():
    """Many threads over a pool get their own answers."""
    pool = psycopg2.pool.ThreadedConnectionPool(2, 8, "")
    faults = []

    def work(number):
        try:
            for n in range(30):
                connection = pool.getconn()
                assert value(connection, "select %s", f"{number}-{n}") == f"{number}-{n}"
                pool.putconn(connection)
        except Exception as fault:  # noqa: BLE001 - all of them count
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    pool.closeall()
    assert not faults, faults[0]


@check
def ddl_beside_transactions():
    """VACUUM, CREATE INDEX CONCURRENTLY and CREATE DATABASE's kind run outside transactions only."""
    connection = connect(autocommit=True)
    execute(connection, "create table busy as select generate_series(1, 100) n")
    execute(connection, "create index concurrently on busy (n)")
    execute(connection, "vacuum analyze busy")
    connection.autocommit = False
    raises(errors.ActiveSqlTransaction, execute, connection, "vacuum busy")
    connection.rollback()
    connection.close()


run()
