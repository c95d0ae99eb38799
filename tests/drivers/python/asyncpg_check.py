"""asyncpg: binary formats, named prepared statements, a pool that resets, heavy concurrency. Argument: the pool mode."""

import asyncio
import sys

import asyncpg

MODE = sys.argv[1] if len(sys.argv) > 1 else "transaction"


async def one_connection():
    connection = await asyncpg.connect()
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
    connection = await asyncpg.connect(server_settings={"application_name": "asyncpg check", "timezone": "Asia/Tokyo"})
    assert await connection.fetchval("show timezone") == "Asia/Tokyo"
    assert await connection.fetchval("show application_name") == "asyncpg check"
    await connection.close()
    print("passed: settings")


async def transactions():
    connection = await asyncpg.connect()
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
    async with asyncpg.create_pool(min_size=10, max_size=10) as pool:

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
    listener, speaker = await asyncpg.connect(), await asyncpg.connect()
    heard = asyncio.Queue()
    await listener.add_listener("talk", lambda *args: heard.put_nowait(args[3]))
    await speaker.execute("notify talk, 'hello'")
    assert await asyncio.wait_for(heard.get(), 10) == "hello"
    own = asyncio.Queue()
    await listener.add_listener("own", lambda _, pid, channel, payload: own.put_nowait((pid, payload)))
    await listener.execute("notify own, 'mine'")
    assert await asyncio.wait_for(own.get(), 10) == (listener.get_server_pid(), "mine")
    await listener.reset()
    await speaker.execute("notify talk, 'unheard'")
    assert await listener.fetchval("select 1") == 1
    assert heard.empty()
    await listener.close()
    await speaker.close()
    print("passed: listening")


async def what_the_pool_sends_on_release():
    """Everything of one user of the pool is gone for the next, as on a plain server."""
    async with asyncpg.create_pool(min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            await connection.execute("set timezone = 'Asia/Tokyo'")
            await connection.execute("set app.tenant = 'one'")
            if MODE == "transaction":
                await connection.execute("select pg_advisory_lock(99)")
                await connection.add_listener("released", lambda *args: None)
                await connection.remove_listener("released", lambda *args: None)
        async with pool.acquire() as connection:
            assert await connection.fetchval("show timezone") != "Asia/Tokyo"
            assert await connection.fetchval("select current_setting('app.tenant', true)") in (None, "")
            held = "select count(*) from pg_locks where locktype = 'advisory' and objid = 99"
            assert await connection.fetchval(held) == 0
        status = await pool.execute("SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;")
        assert status == "RESET", status
    print("passed: what the pool sends on release")


async def two_connections():
    """Statements of one text under different settings, types and schemas."""
    one, two = await asyncpg.connect(), await asyncpg.connect()
    for own, name in ((one, "one"), (two, "two")):
        await own.execute(f"drop schema if exists tenant_{name} cascade; create schema tenant_{name}")
        await own.execute(f"set search_path = tenant_{name}")
        await own.execute("create table item (name text)")
        await own.execute("insert into item values ($1)", name)
    for _ in range(10):
        assert await one.fetchval("select name from item where name = $1", "one") == "one"
        assert await two.fetchval("select name from item where name = $1", "two") == "two"
    for own, name in ((one, "one"), (two, "two")):
        await own.execute(f"drop schema tenant_{name} cascade")
        await own.close()
    print("passed: two connections")


async def copies():
    connection = await asyncpg.connect()
    await connection.execute("create table if not exists copied (n int, s text)")
    await connection.execute("truncate copied")
    source = b"".join(b"%d\trow\n" % n for n in range(20000))

    async def chunks():
        for at in range(0, len(source), 10000):
            yield source[at : at + 10000]

    assert await connection.copy_to_table("copied", source=chunks()) == "COPY 20000"
    got = []

    async def collect(data):
        got.append(data)

    assert await connection.copy_from_query("select * from copied order by n", output=collect) == "COPY 20000"
    assert b"".join(got) == source
    await connection.close()
    print("passed: copies")


async def a_small_cache():
    """Statements are closed and made again all the time."""
    connection = await asyncpg.connect(statement_cache_size=2)
    for n in range(60):
        assert await connection.fetchval(f"select $1::int + {n % 9}", n) == n + n % 9
    await connection.close()
    connection = await asyncpg.connect(statement_cache_size=0)
    for n in range(10):
        assert await connection.fetchval("select $1::int", n) == n
    await connection.close()
    print("passed: a small cache")


async def a_table_changes():
    """What a prepared statement returns changes under it."""
    one, two = await asyncpg.connect(), await asyncpg.connect()
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
    await what_the_pool_sends_on_release()
    await two_connections()
    await copies()
    await a_small_cache()
    await a_table_changes()
    print("all passed")


asyncio.run(main())
