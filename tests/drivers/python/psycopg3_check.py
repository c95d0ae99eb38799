"""psycopg 3, with psycopg_pool. Argument: the pool mode, `transaction` unless given; the target is in PGHOST and so on."""

import asyncio
import os
import sys
import threading
from datetime import datetime, timezone

import psycopg
from psycopg import errors, sql
from psycopg_pool import ConnectionPool

MODE = sys.argv[1] if len(sys.argv) > 1 else "transaction"


def check(name):
    def register(test):
        CHECKS.append((name, test))
        return test

    return register


CHECKS = []


def connect(**options):
    # Statement mode has no transactions: psycopg would open one before the first statement.
    options.setdefault("autocommit", MODE == "statement")
    return psycopg.connect("", **options)


@check("parameters of many types")
def _(connection):
    row = connection.execute(
        "select %s::int, %s::text, %s::numeric, %s::jsonb, %s::int[], %s::bytea, %s::timestamptz",
        (7, "ä€😀", 1.5, '{"a": 1}', [1, 2, None], b"\x00\xff", "2026-11-21 00:00:00+00"),
    ).fetchone()
    assert row[0] == 7 and row[1] == "ä€😀" and row[4] == [1, 2, None] and row[5] == b"\x00\xff", row


@check("binary results")
def _(connection):
    cursor = connection.cursor(binary=True)
    assert cursor.execute("select g, g::float8, g::text from generate_series(1, 100) g").fetchall()[99] == (100, 100.0, "100")


@check("prepared statements after a few executions")
def _(connection):
    for n in range(20):
        assert connection.execute("select %s + 1", (n,)).fetchone() == (n + 1,)
        assert connection.execute("select %s || 'x'", (str(n),), prepare=True).fetchone() == (f"{n}x",)


@check("executemany and pipeline mode")
def _(connection):
    connection.execute("create table if not exists many (n int primary key, s text)")
    connection.execute("truncate many")
    with connection.cursor() as cursor:
        cursor.executemany("insert into many values (%s, %s)", [(n, f"s{n}") for n in range(200)])
    with connection.pipeline() as pipeline:
        cursors = [connection.execute("select s from many where n = %s", (n,)) for n in range(100)]
        pipeline.sync()
        more = [connection.execute("select count(*) from many where n < %s", (n,)) for n in range(100)]
    assert [c.fetchone()[0] for c in cursors] == [f"s{n}" for n in range(100)]
    assert [c.fetchone()[0] for c in more] == list(range(100))


@check("an error in a pipeline")
def _(connection):
    if MODE == "transaction":
        connection.commit()
    try:
        with connection.pipeline() as pipeline:
            connection.execute("select 1")
            connection.execute("select 1/0")
            connection.execute("select 2")
            pipeline.sync()
        raise AssertionError("no error")
    except errors.DivisionByZero:
        pass
    if MODE == "transaction":
        connection.rollback()
    assert connection.execute("select 3").fetchone() == (3,)


@check("copy in both directions")
def _(connection):
    connection.execute("create table if not exists copied (n int, s text)")
    connection.execute("truncate copied")
    with connection.cursor() as cursor:
        with cursor.copy("copy copied from stdin") as copy:
            for n in range(5000):
                copy.write_row((n, f"row {n}"))
        with cursor.copy("copy copied to stdout") as copy:
            assert sum(1 for _ in copy.rows()) == 5000
        try:
            with cursor.copy("copy copied from stdin") as copy:
                copy.write("not a number\tx\n")
            raise AssertionError("no error")
        except errors.InvalidTextRepresentation:
            pass
    if MODE == "transaction":
        connection.rollback()


@check("errors carry their fields")
def _(connection):
    try:
        connection.execute("select * from nosuchtable")
        raise AssertionError("no error")
    except errors.UndefinedTable as error:
        assert error.diag.sqlstate == "42P01" and error.diag.statement_position == "15", error.diag
    if MODE == "transaction":
        connection.rollback()


@check("server-side settings")
def _(connection):
    connection.execute("set time zone 'Asia/Tokyo'")
    connection.execute(sql.SQL("set application_name to {}").format("psycopg check"))
    if MODE == "transaction":
        connection.commit()
    assert connection.execute("show time zone").fetchone() == ("Asia/Tokyo",)
    assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
    assert connection.info.parameter_status("application_name") == "psycopg check"
    connection.execute("reset time zone")


@check("cancel")
def _(connection):
    timer = threading.Timer(0.3, connection.cancel)
    timer.start()
    try:
        connection.execute("select pg_sleep(20)")
        raise AssertionError("not cancelled")
    except errors.QueryCanceled:
        pass
    if MODE == "transaction":
        connection.rollback()


@check("notices")
def _(connection):
    heard = []
    connection.add_notice_handler(lambda diag: heard.append(diag.message_primary))
    connection.execute("do $$ begin raise notice 'hello'; end $$")
    assert heard == ["hello"], heard


@check("transactions, savepoints, rollback")
def _(connection):
    if MODE == "statement":
        try:
            with connection.transaction():
                connection.execute("select 1")
            raise AssertionError("a transaction was opened")
        except errors.FeatureNotSupported:
            pass
        connection.execute("rollback")
        return
    connection.execute("create table if not exists accounts (n int)")
    connection.execute("truncate accounts")
    connection.commit()
    with connection.transaction():
        connection.execute("insert into accounts values (1)")
        try:
            with connection.transaction():
                connection.execute("insert into accounts values (2)")
                raise ValueError
        except ValueError:
            pass
    assert connection.execute("select array_agg(n) from accounts").fetchone() == ([1],)
    connection.execute("insert into accounts values (3)")
    connection.rollback()
    assert connection.execute("select count(*) from accounts").fetchone() == (1,)
    connection.commit()


@check("a server-side cursor")
def _(connection):
    if MODE == "statement":
        return
    with connection.cursor(name="c") as cursor:
        cursor.execute("select g from generate_series(1, 1000) g")
        assert cursor.fetchmany(10) == [(n,) for n in range(1, 11)]
        assert len(cursor.fetchall()) == 990
    connection.commit()


@check("listen and notify")
def _(connection):
    if MODE == "statement":
        return
    with connect(autocommit=True) as listener, connect(autocommit=True) as speaker:
        listener.execute("listen talk")
        speaker.execute("notify talk, 'hello'")
        heard = next(listener.notifies(timeout=10))
        assert (heard.channel, heard.payload) == ("talk", "hello")


@check("a held cursor outlives its transaction")
def _(connection):
    if MODE == "statement":
        return
    with connection.cursor(name="held", withhold=True, scrollable=True) as cursor:
        cursor.execute("select g from generate_series(1, 100) g")
        connection.commit()
        assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
        connection.commit()
        cursor.scroll(-1)
        assert cursor.fetchone() == (3,)
    connection.commit()


@check("two connections keep their settings and prepared statements apart")
def _(connection):
    with connect() as one, connect() as two:
        one.execute("set time zone 'Asia/Tokyo'")
        two.execute("set time zone 'Africa/Nairobi'")
        one.execute("set app.tenant = 'one'")
        two.execute("set app.tenant = 'two'")
        one.commit(), two.commit()
        for n in range(20):
            for own, zone, tenant in ((one, "Asia/Tokyo", "one"), (two, "Africa/Nairobi", "two")):
                row = own.execute("select current_setting('TimeZone'), current_setting('app.tenant'), %s::int", (n,)).fetchone()
                assert row == (zone, tenant, n), row
                own.commit()
        if MODE == "transaction":
            one.execute("set time zone 'Europe/Paris'")
            one.rollback()
        assert one.execute("show time zone").fetchone() == ("Asia/Tokyo",)


@check("prepared statements that are thrown away and made again")
def _(connection):
    with connect(prepare_threshold=0) as own:
        own.prepared_max = 3
        for n in range(30):
            assert own.execute(f"select %s + {n % 7}", (n,)).fetchone() == (n + n % 7,)
            own.commit()
        own.execute("deallocate all")
        own.commit()
        assert own.execute("select %s + 1", (1,)).fetchone() == (2,)


@check("a session advisory lock is held until it is released or its owner goes")
def _(connection):
    if MODE == "statement":
        return
    one, two = connect(autocommit=True), connect(autocommit=True)
    lock, attempt = "select pg_advisory_lock(4711)", "select pg_try_advisory_lock(4711)"
    one.execute(lock)
    assert two.execute(attempt).fetchone() == (False,)
    assert one.execute("select pg_advisory_unlock(4711)").fetchone() == (True,)
    assert two.execute(attempt).fetchone() == (True,)
    two.close()
    one.execute("set lock_timeout = '20s'")
    one.execute(lock)
    one.close()


@check("temporary tables belong to their connection")
def _(connection):
    if MODE == "statement":
        return
    with connect(autocommit=True) as one, connect(autocommit=True) as two:
        one.execute("create temp table scratch as select 1 as n")
        two.execute("create temp table scratch as select 2 as n")
        for _ in range(5):
            assert one.execute("select n from scratch").fetchone() == (1,)
            assert two.execute("select n from scratch").fetchone() == (2,)


@check("copy in binary")
def _(connection):
    connection.execute("create table if not exists binaries (n int, b bytea, t timestamptz)")
    connection.execute("truncate binaries")
    with connection.cursor() as cursor:
        with cursor.copy("copy binaries from stdin (format binary)") as copy:
            copy.set_types(["int4", "bytea", "timestamptz"])
            for n in range(1000):
                copy.write_row((n, os.urandom(50), datetime.now(timezone.utc)))
        with cursor.copy("copy (select n from binaries order by n) to stdout (format binary)") as copy:
            copy.set_types(["int4"])
            assert [row[0] for row in copy.rows()] == list(range(1000))


@check("own notifications are known by their process id")
def _(connection):
    if MODE == "statement":
        return
    with connect(autocommit=True) as one, connect(autocommit=True) as two:
        one.execute("listen own_talk")
        with two.transaction():
            two.execute("select pg_notify('own_talk', 'from two')")
        one.execute("notify own_talk, 'from one'")
        heard = [one_of for one_of, _ in zip(one.notifies(timeout=10), range(2))]
        assert [(n.payload, n.pid == one.info.backend_pid) for n in heard] == [("from two", False), ("from one", True)], heard
        with one.transaction(force_rollback=True):
            one.execute("listen undone")
        two.execute("notify undone")
        one.execute("unlisten *")
        two.execute("notify own_talk, 'unheard'")
        assert list(one.notifies(timeout=0.5)) == []


@check("two-phase commit")
def _(connection):
    if MODE == "statement":
        return
    own = connect()
    try:
        own.execute("create table if not exists phases (n int)")
        own.commit()
        xid = own.xid(1, f"global {os.getpid()}", "branch")
        own.tpc_begin(xid)
        own.execute("insert into phases values (1)")
        own.tpc_prepare()
        own.tpc_commit()
        xid = own.xid(1, f"other {os.getpid()}", "branch")
        own.tpc_begin(xid)
        own.execute("insert into phases values (2)")
        own.tpc_prepare()
    finally:
        own.close()
    with connect() as other:
        mine = [x for x in other.tpc_recover() if x.gtrid == f"other {os.getpid()}"]
        assert len(mine) == 1, mine
        other.rollback()
        other.tpc_rollback(mine[0])
        assert other.execute("select array_agg(n) from phases").fetchone() == ([1],)


@check("a pool of its own")
def _(connection):
    options = {"autocommit": MODE == "statement"}
    with ConnectionPool("", min_size=2, max_size=6, kwargs=options, check=ConnectionPool.check_connection) as pool:

        def work(number):
            for n in range(30):
                with pool.connection() as own:
                    assert own.execute("select %s::text", (f"{number}-{n}",)).fetchone() == (f"{number}-{n}",)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]


@check("asynchronous connections, cancelled by a time limit")
def _(connection):
    async def run():
        async with await psycopg.AsyncConnection.connect("", autocommit=True) as own:
            try:
                await asyncio.wait_for(own.execute("select pg_sleep(20)"), 0.3)
                raise AssertionError("not cancelled")
            except asyncio.TimeoutError:
                pass
            assert await (await own.execute("select 1")).fetchone() == (1,)
            await asyncio.gather(*(own.execute("select 1") for _ in range(10)))

    asyncio.run(run())


def many_threads():
    """Each thread gets its own answers."""
    faults = []

    def work(number):
        try:
            with connect(autocommit=True) as connection:
                for n in range(100):
                    got = connection.execute("select %s::text", (f"{number}-{n}",)).fetchone()
                    assert got == (f"{number}-{n}",), got
        except Exception as fault:  # noqa: BLE001 - all of them count
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not faults, faults[0]


def main():
    with connect() as connection:
        for name, test in CHECKS:
            test(connection)
            if MODE == "transaction":
                connection.commit()
            print("passed:", name)
    many_threads()
    print("passed: many threads")
    print("all passed")


main()
