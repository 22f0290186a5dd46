from django.db import migrations


class Migration(migrations.Migration):
    """Of a release whose migration was never tried."""
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunSQL("ALTER TABLE shop_items ADD COLUMN price integer")]
