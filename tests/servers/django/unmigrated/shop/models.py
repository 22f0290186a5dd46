from django.db import models


class Item(models.Model):
    """Of a release whose migration was forgotten."""
    name = models.CharField(max_length=80)

    class Meta:
        db_table = "shop_goods"
