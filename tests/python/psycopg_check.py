"""psycopg 3 through the proxy. Arguments: a connection string and the pool mode."""

import sys
import threading

import psycopg
from psycopg import errors, sql

CONNINFO, MODE = sys.argv[1], sys.argv[2]


def check(name):
    def register(test):
        CHECKS.append((name, test))
        return test

    return register


CHECKS = []


def connect(**options):
    # Statement mode has no transactions: psycopg would open one before the first statement.
    options.setdefault("autocommit", MODE == "statement")
    return psycopg.connect(CONNINFO, **options)


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
