"""asyncpg through the proxy: binary formats, named prepared statements, a pool that resets, heavy concurrency."""

import asyncio
import sys

import asyncpg

PARTS = dict(part.split("=", 1) for part in sys.argv[1].split())
MODE = sys.argv[2]
WHERE = {
    "host": PARTS["host"],
    "port": int(PARTS["port"]),
    "user": PARTS["user"],
    "database": PARTS["dbname"],
    "ssl": False,
}


async def one_connection():
    connection = await asyncpg.connect(**WHERE)
    assert await connection.fetchval("select $1::int + $2::int", 1, 41) == 42
    assert await connection.fetchval("select $1::text", "ä€😀") == "ä€😀"
    rows = await connection.fetch("select g, g::text as s, array[g, null] as a from generate_series(1, $1) g", 500)
    assert len(rows) == 500 and rows[499]["a"] == [500, None]
    statement = await connection.prepare("select n, s from (values (1, 'a'), (2, 'b')) v(n, s) where n = $1")
    assert [tuple(row) for row in await statement.fetch(2)] == [(2, "b")]
    assert [a.name for a in statement.get_attributes()] == ["n", "s"]
    await connection.execute("create table if not exists t (n int primary key, s text)")
    await connection.execute("truncate t")
    await connection.executemany("insert into t values ($1, $2)", [(n, str(n)) for n in range(300)])
    assert await connection.fetchval("select count(*) from t") == 300
    try:
        await connection.execute("insert into t values ($1, $2)", 1, "again")
        raise AssertionError("no error")
    except asyncpg.UniqueViolationError as error:
        assert error.constraint_name == "t_pkey"
    result = await connection.copy_records_to_table("t", records=[(n, "c") for n in range(1000, 3000)])
    assert result == "COPY 2000", result
    try:
        await connection.fetchval("select pg_sleep(20)", timeout=0.3)
        raise AssertionError("not cancelled")
    except asyncio.TimeoutError:
        pass
    assert await connection.fetchval("select 1") == 1
    await connection.set_type_codec("json", encoder=str, decoder=str, schema="pg_catalog")
    assert await connection.fetchval("select '[1]'::json") == "[1]"
    await connection.reset()
    await connection.close()
    print("passed: one connection")


async def settings():
    connection = await asyncpg.connect(**WHERE, server_settings={"application_name": "asyncpg check", "timezone": "Asia/Tokyo"})
    assert await connection.fetchval("show timezone") == "Asia/Tokyo"
    assert await connection.fetchval("show application_name") == "asyncpg check"
    await connection.close()
    print("passed: settings")


async def transactions():
    connection = await asyncpg.connect(**WHERE)
    if MODE == "statement":
        try:
            async with connection.transaction():
                pass
            raise AssertionError("a transaction was opened")
        except asyncpg.FeatureNotSupportedError:
            pass
        await connection.execute("rollback")
    else:
        try:
            async with connection.transaction():
                await connection.execute("insert into t values (-1, 'x')")
                raise ValueError
        except ValueError:
            pass
        assert await connection.fetchval("select count(*) from t where n = -1") == 0
        async with connection.transaction(isolation="serializable", readonly=True):
            assert await connection.fetchval("show transaction_isolation") == "serializable"
            async with connection.transaction():
                assert await connection.fetchval("select 1") == 1
            cursor = await connection.cursor("select g from generate_series(1, 100) g")
            assert len(await cursor.fetch(10)) == 10
    await connection.close()
    print("passed: transactions")


async def a_pool():
    async with asyncpg.create_pool(**WHERE, min_size=10, max_size=10) as pool:

        async def work(number):
            for n in range(40):
                async with pool.acquire() as connection:
                    got = await connection.fetchval("select $1::text || $2::text", f"{number}-", str(n))
                    assert got == f"{number}-{n}", got

        await asyncio.gather(*(work(number) for number in range(40)))
    print("passed: a pool")


async def listening():
    if MODE == "statement":
        return
    listener, speaker = await asyncpg.connect(**WHERE), await asyncpg.connect(**WHERE)
    heard = asyncio.Queue()
    await listener.add_listener("talk", lambda *args: heard.put_nowait(args[3]))
    await speaker.execute("notify talk, 'hello'")
    assert await asyncio.wait_for(heard.get(), 10) == "hello"
    await listener.close()
    await speaker.close()
    print("passed: listening")


async def a_table_changes():
    """What a prepared statement returns changes under it."""
    one, two = await asyncpg.connect(**WHERE), await asyncpg.connect(**WHERE)
    await one.execute("create table if not exists changing (a int)")
    await one.execute("insert into changing values (1)")
    assert dict(await two.fetchrow("select * from changing")) == {"a": 1}
    await one.execute("alter table changing add column b int")
    try:
        await two.fetchrow("select * from changing")
    except (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError):
        pass
    assert dict(await two.fetchrow("select * from changing")) == {"a": 1, "b": None}
    await one.execute("drop table changing")
    await one.close()
    await two.close()
    print("passed: a table changes")


async def main():
    await one_connection()
    await settings()
    await transactions()
    await a_pool()
    await listening()
    await a_table_changes()
    print("all passed")


asyncio.run(main())
