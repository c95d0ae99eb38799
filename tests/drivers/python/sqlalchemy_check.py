"""SQLAlchemy over psycopg 3, psycopg2 and asyncpg: engine, pool, ORM, inspection, isolation levels, streaming."""

import asyncio
import threading

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from checks import check, raises, run

DRIVERS = ("psycopg", "psycopg2")


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(50), unique=True)
    data: orm.Mapped[dict] = orm.mapped_column(JSONB, default=dict)
    books: orm.Mapped[list["Book"]] = orm.relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")


def engines(**options):
    for driver in DRIVERS:
        engine = sa.create_engine(f"postgresql+{driver}://", **options)
        yield engine
        engine.dispose()


@check
def schema_and_inspection():
    """create_all, reflection and drop_all."""
    for engine in engines():
        Base.metadata.create_all(engine)
        Base.metadata.create_all(engine)
        inspector = sa.inspect(engine)
        assert sorted(inspector.get_table_names()) == ["author", "book"]
        assert inspector.get_foreign_keys("book")[0]["referred_table"] == "author"
        reflected = sa.MetaData()
        reflected.reflect(engine)
        assert isinstance(reflected.tables["author"].c.data.type, JSONB)
        Base.metadata.drop_all(engine)


@check
def the_orm():
    """Units of work, relations, bulk inserts with RETURNING, savepoints."""
    for engine in engines(pool_pre_ping=True):
        Base.metadata.create_all(engine)
        with orm.Session(engine) as session:
            session.add_all(Author(name=f"a{n}", data={"n": n}, books=[Book(title=f"b{n}-{m}") for m in range(3)]) for n in range(400))
            session.commit()
            found = session.scalars(sa.select(Author).options(orm.selectinload(Author.books)).where(Author.name == "a7")).one()
            assert sorted(b.title for b in found.books) == ["b7-0", "b7-1", "b7-2"] and found.data == {"n": 7}
            with raises_in(session):
                session.add(Author(name="a7"))
                session.flush()
            found.name = "renamed"
            session.commit()
            assert session.scalar(sa.select(sa.func.count()).where(Author.name == "renamed")) == 1
            upsert = insert(Author).values(name="renamed", data={}).on_conflict_do_update(index_elements=["name"], set_={"data": {"again": True}})
            session.execute(upsert.returning(Author.id))
            session.commit()
            assert session.scalar(sa.select(Author.data).where(Author.name == "renamed")) == {"again": True}
            session.delete(found)
            session.rollback()
            assert session.scalar(sa.select(sa.func.count(Book.id))) == 1200
        Base.metadata.drop_all(engine)


class raises_in:
    """A savepoint whose block breaks a constraint."""

    def __init__(self, session):
        self.nested = session.begin_nested()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        assert kind is sa.exc.IntegrityError, kind
        self.nested.rollback()
        return True


@check
def isolation_levels():
    """Levels of an engine, of a connection, AUTOCOMMIT, and what SHOW says."""
    for engine in engines(isolation_level="REPEATABLE READ"):
        with engine.connect() as one, engine.connect() as two:
            assert one.get_isolation_level() == "REPEATABLE READ"
            two = two.execution_options(isolation_level="SERIALIZABLE")
            for _ in range(3):
                assert one.scalar(sa.text("show transaction_isolation")) == "repeatable read"
                assert two.scalar(sa.text("show transaction_isolation")) == "serializable"
                assert two.get_isolation_level() == "SERIALIZABLE"
                one.commit(), two.commit()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as auto:
            auto.execute(sa.text("create table vac (n int)"))
            auto.execute(sa.text("vacuum vac"))
            auto.execute(sa.text("drop table vac"))
        with engine.connect() as again:
            assert again.get_isolation_level() == "REPEATABLE READ"
        with engine.connect().execution_options(postgresql_readonly=True) as readonly:
            raises(sa.exc.DBAPIError, readonly.execute, sa.text("create table never (n int)"))


@check
def streaming():
    """Server-side cursors."""
    for engine in engines():
        with engine.connect() as connection:
            result = connection.execution_options(stream_results=True, max_row_buffer=100).execute(
                sa.text("select generate_series(1, 5000)")
            )
            assert sum(row[0] for row in result) == 12502500


@check
def a_pool():
    """Many threads over the engine's pool; connections that the server lost are noticed by the ping."""
    for engine in engines(pool_size=4, max_overflow=2, pool_pre_ping=True):

        def work(number):
            for n in range(25):
                with engine.begin() as connection:
                    got = connection.scalar(sa.text("select cast(:marker as text)"), {"marker": f"{number}-{n}"})
                    assert got == f"{number}-{n}"

        faults = []

        def guarded(number):
            try:
                work(number)
            except Exception as fault:  # noqa: BLE001 - all of them count
                faults.append(fault)

        threads = [threading.Thread(target=guarded, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not faults, faults[0]


@check
def settings_of_a_tenant():
    """A search_path for each connection, set by an event, and set_config for one transaction."""
    for engine in engines():
        with engine.begin() as connection:
            for tenant in ("red", "blue"):
                connection.execute(sa.text(f"drop schema if exists {tenant} cascade"))
                connection.execute(sa.text(f"create schema {tenant}"))
                connection.execute(sa.text(f"create table {tenant}.item as select '{tenant}'::text as name"))
        with engine.connect() as one, engine.connect() as two:
            one.execute(sa.text("set search_path = red"))
            two.execute(sa.text("set search_path = blue"))
            one.commit(), two.commit()
            for _ in range(8):
                assert one.scalar(sa.text("select name from item where name <> :x"), {"x": ""}) == "red"
                assert two.scalar(sa.text("select name from item where name <> :x"), {"x": ""}) == "blue"
                one.commit(), two.commit()
            one.execute(sa.text("select set_config('search_path', 'blue', true)"))
            assert one.scalar(sa.text("select name from item")) == "blue"
            one.commit()
            assert one.scalar(sa.text("select name from item")) == "red"
        with engine.begin() as connection:
            connection.execute(sa.text("drop schema red cascade; drop schema blue cascade") if engine.driver == "psycopg2" else sa.text("drop schema red cascade"))


@check
def asynchronous():
    """The asyncpg dialect, with its own cache of prepared statements."""

    async def work():
        engine = create_async_engine("postgresql+asyncpg://", pool_size=4)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add_all(Author(name=f"x{n}", data={"n": n}) for n in range(50))
            await session.commit()

        async def one(number):
            async with AsyncSession(engine) as session:
                for n in range(10):
                    found = await session.scalar(sa.select(Author.data).where(Author.name == f"x{(number + n) % 50}"))
                    assert found == {"n": (number + n) % 50}

        await asyncio.gather(*(one(number) for number in range(8)))
        async with engine.connect() as connection:
            rows = await connection.stream(sa.text("select generate_series(1, 300)"))
            assert sum([row[0] async for row in rows]) == 45150
            level = await connection.get_raw_connection()
            assert level is not None
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
        await engine.dispose()

    asyncio.run(work())


run()
