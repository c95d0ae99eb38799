"""An index made concurrently, outside of transactions."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("django_shop", "0002_rows")]
    operations = [AddIndexConcurrently("Order", models.Index(fields=["made"], name="order_made"))]
