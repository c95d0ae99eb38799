"""The tables."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            "Customer",
            [
                ("id", models.AutoField(primary_key=True)),
                ("name", models.CharField(max_length=50)),
                ("tags", django.contrib.postgres.fields.ArrayField(models.CharField(max_length=20), default=list)),
                ("data", models.JSONField(default=dict)),
            ],
        ),
        migrations.CreateModel(
            "Order",
            [
                ("id", models.AutoField(primary_key=True)),
                ("made", models.DateTimeField(auto_now_add=True)),
                ("amount", models.DecimalField(max_digits=10, decimal_places=2)),
                ("customer", models.ForeignKey("django_shop.Customer", on_delete=models.CASCADE, related_name="orders")),
            ],
        ),
    ]
