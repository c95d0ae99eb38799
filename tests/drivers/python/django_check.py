"""Django: migrations, the ORM, iterator() with its held cursor, get_or_create() from many threads.

Argument: `plain`, `binding` (server-side parameters) or `pool` (Django's own pool)."""

import os
import sys
import threading
import time

import django
from django.conf import settings

HOW = sys.argv[1] if len(sys.argv) > 1 else "plain"
OPTIONS = {"plain": {}, "binding": {"server_side_binding": True}, "pool": {"pool": {"min_size": 2, "max_size": 8}}}
DATABASE = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": os.environ["PGHOST"],
    "PORT": os.environ["PGPORT"],
    "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"],
    "NAME": os.environ["PGDATABASE"],
    "CONN_MAX_AGE": 0 if HOW == "pool" else 60,
    "CONN_HEALTH_CHECKS": HOW != "pool",
    "OPTIONS": OPTIONS[HOW],
}
settings.configure(
    DATABASES={"default": DATABASE},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_shop"],
    USE_TZ=True,
    TIME_ZONE="Asia/Tokyo",
    SECRET_KEY="only for this test",
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, models, transaction  # noqa: E402

from checks import check, raises, run  # noqa: E402
from django_shop.models import Customer, Order  # noqa: E402


def in_threads(count, work):
    """Each in a thread, which has a connection of its own."""
    faults = []

    def guarded(number):
        try:
            work(number)
        except Exception as fault:  # noqa: BLE001 - all of them count
            faults.append(fault)
        finally:
            connection.close()

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if faults:
        raise faults[0]


@check
def migrations():
    """Migrate, back to nothing, and again; nothing is left to do."""
    call_command("migrate", verbosity=0)
    assert Customer.objects.count() == 50
    call_command("migrate", "django_shop", "zero", verbosity=0)
    call_command("migrate", verbosity=0)
    call_command("migrate", check_unapplied=True, verbosity=0)
    call_command("makemigrations", check_changes=False, dry_run=True, verbosity=0)


@check
def several_migrators():
    """A session advisory lock keeps migrators apart."""
    call_command("migrate", "django_shop", "zero", verbosity=0)

    def work(_):
        with connection.cursor() as cursor:
            # Tried, not waited for: CREATE INDEX CONCURRENTLY waits for every statement that runs.
            while True:
                cursor.execute("select pg_try_advisory_lock(1001)")
                if cursor.fetchone()[0]:
                    break
                time.sleep(0.02)
            try:
                call_command("migrate", verbosity=0)
            finally:
                cursor.execute("select pg_advisory_unlock(1001)")

    in_threads(3, work)
    assert Customer.objects.count() == 50


@check
def rows():
    """Queries, aggregates, expressions, JSON, arrays, prefetching, bulk changes."""
    customer = Customer.objects.create(name="ä€😀", tags=["a", "b"], data={"deep": {"er": [1, 2]}})
    assert Customer.objects.get(data__deep__er__0=1, tags__contains=["b"]).name == "ä€😀"
    Order.objects.bulk_create(Order(customer=customer, amount=n) for n in range(2500))
    found = Customer.objects.annotate(total=models.Sum("orders__amount")).get(pk=customer.pk)
    assert found.total == sum(range(2500))
    assert len(Customer.objects.prefetch_related("orders").get(pk=customer.pk).orders.all()) == 2500
    Order.objects.filter(amount__lt=10).update(amount=models.F("amount") + 1000)
    assert Order.objects.filter(amount__gte=1000, amount__lt=1010).count() == 20
    Customer.objects.bulk_update([Customer(pk=customer.pk, visits=9)], ["visits"])
    assert Customer.objects.values_list("visits", flat=True).get(pk=customer.pk) == 9
    assert list(Customer.objects.filter(pk=customer.pk).values_list("orders__made__hour", flat=True)[:1])


@check
def the_iterator():
    """iterator() outside a transaction declares a cursor WITH HOLD; two at once; one left half-way."""
    seen = 0
    for order in Order.objects.order_by("pk").iterator(chunk_size=100):
        seen += 1
        if seen % 1000 == 0:
            assert Customer.objects.filter(pk=order.customer_id).exists()
    assert seen == 2500
    one, two = Order.objects.iterator(chunk_size=50), Customer.objects.iterator(chunk_size=5)
    for _ in range(20):
        assert next(one).amount is not None and next(two).name
    del one, two
    with transaction.atomic():
        assert sum(1 for _ in Order.objects.iterator(chunk_size=500)) == 2500


@check
def get_or_create():
    """get_or_create() from many threads makes each row once."""

    def work(number):
        for n in range(20):
            made, _ = Customer.objects.get_or_create(name=f"raced {n}", defaults={"data": {"by": number}})
            assert made.name == f"raced {n}"
            Customer.objects.update_or_create(name=f"raced {n}", defaults={"visits": number})

    in_threads(6, work)
    assert Customer.objects.filter(name__startswith="raced").count() == 20


@check
def atomic():
    """atomic(), nested, with errors, on_commit(), durable, and locked rows."""
    heard = []
    with transaction.atomic():
        Customer.objects.create(name="outer")
        raises(ZeroDivisionError, inner)
        with transaction.atomic():
            raises(IntegrityError, in_a_savepoint, "outer")
        transaction.on_commit(lambda: heard.append("committed"))
    assert heard == ["committed"]
    assert Customer.objects.filter(name="outer").exists() and not Customer.objects.filter(name="inner").exists()

    def work(_):
        for _ in range(10):
            with transaction.atomic():
                row = Customer.objects.select_for_update().get(name="outer")
                row.visits += 1
                row.save()

    in_threads(5, work)
    assert Customer.objects.get(name="outer").visits == 50


def inner():
    with transaction.atomic():
        Customer.objects.create(name="inner")
        return 1 / 0


def in_a_savepoint(name):
    with transaction.atomic():
        Customer.objects.create(name=name)


@check
def settings_of_a_connection():
    """The time zone set at connect stays; a tenant's setting is its own thread's."""
    with connection.cursor() as cursor:
        cursor.execute("show timezone")
        assert cursor.fetchone()[0] in ("UTC", "Asia/Tokyo")

    def work(number):
        with connection.cursor() as cursor:
            cursor.execute("select set_config('app.tenant', %s, false)", [str(number)])
        for _ in range(10):
            with connection.cursor() as cursor:
                cursor.execute("select current_setting('app.tenant')")
                assert cursor.fetchone()[0] == str(number)
            assert Customer.objects.count() > 0

    if HOW != "pool":
        in_threads(5, work)


@check
def raw_sql():
    """Raw queries, explain(), COPY by the driver's own means."""
    assert Customer.objects.raw("select * from django_shop_customer where name = %s", ["outer"])[0].visits == 50
    assert "Scan" in Customer.objects.filter(visits__gt=5).explain()
    with connection.cursor() as cursor, cursor.copy("copy django_shop_customer (name) to stdout") as copy:
        assert any(row[0] == "outer" for row in copy.rows())


run()
