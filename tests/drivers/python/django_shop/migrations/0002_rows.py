"""Rows made by code, and a change of the table in the same transaction."""

from django.db import migrations, models


def fill(apps, schema_editor):
    customer = apps.get_model("django_shop", "Customer")
    customer.objects.bulk_create(customer(name=f"first {n}", data={"n": n}) for n in range(50))


def empty(apps, schema_editor):
    apps.get_model("django_shop", "Customer").objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("django_shop", "0001_initial")]
    operations = [
        migrations.RunPython(fill, empty),
        migrations.AddField("Customer", "visits", models.IntegerField(default=0)),
        migrations.AlterField("Customer", "name", models.CharField(max_length=50, unique=True)),
    ]
