import uuid

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

# A user's account is a subscriber of the operator that it says: both columns name it.
ACCESS_SQL = """
ALTER TABLE subscriptions_access ADD CONSTRAINT access_is_at_the_subscribers_operator
    FOREIGN KEY (subscriber_id, operator_id) REFERENCES subscriptions_subscriber (id, operator_id)
"""
ACCESS_BACK_SQL = """
ALTER TABLE subscriptions_access DROP CONSTRAINT access_is_at_the_subscribers_operator
"""


class Migration(migrations.Migration):
    # Their tables name the user, which Django takes to be in an app's first migration.
    run_before = [
        ("account", "0001_initial"),
        ("mfa", "0001_initial"),
        ("usersessions", "0001_initial"),
    ]

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("subscriptions", "0020_jobs"),
    ]

    operations = [
        migrations.CreateModel(
            name="User",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("password", models.CharField(max_length=128, verbose_name="password")),
                (
                    "last_login",
                    models.DateTimeField(blank=True, null=True, verbose_name="last login"),
                ),
                (
                    "is_superuser",
                    models.BooleanField(
                        default=False,
                        help_text="Designates that this user has all permissions without explicitly assigning them.",
                        verbose_name="superuser status",
                    ),
                ),
                ("key", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("email", models.EmailField(blank=True, db_index=True, default="", max_length=254)),
                ("phone", models.CharField(blank=True, db_index=True, default="", max_length=16)),
                ("phone_verified", models.BooleanField(default=False)),
                ("is_active", models.BooleanField(default=True)),
                ("created_at", models.DateTimeField()),
                ("closed_at", models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name="Access",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("created_at", models.DateTimeField()),
            ],
        ),
        migrations.AddConstraint(
            model_name="subscriber",
            constraint=models.UniqueConstraint(
                fields=("id", "operator"), name="subscriber_of_operator"
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="groups",
            field=models.ManyToManyField(
                blank=True,
                help_text="The groups this user belongs to. A user will get all permissions granted to each of their groups.",
                related_name="user_set",
                related_query_name="user",
                to="auth.group",
                verbose_name="groups",
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="user_permissions",
            field=models.ManyToManyField(
                blank=True,
                help_text="Specific permissions for this user.",
                related_name="user_set",
                related_query_name="user",
                to="auth.permission",
                verbose_name="user permissions",
            ),
        ),
        migrations.AddField(
            model_name="access",
            name="operator",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.operator",
            ),
        ),
        migrations.AddField(
            model_name="access",
            name="subscriber",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="accesses",
                to="subscriptions.subscriber",
            ),
        ),
        migrations.AddField(
            model_name="access",
            name="user",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="accesses",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.UniqueConstraint(
                condition=models.Q(("phone_verified", True)),
                fields=("phone",),
                name="user_verified_phone_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("phone_verified", False),
                    models.Q(("phone", ""), _negated=True),
                    _connector="OR",
                ),
                name="user_verified_phone_is_one",
            ),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("closed_at__isnull", True),
                    models.Q(("email", ""), ("is_active", False), ("phone", "")),
                    _connector="OR",
                ),
                name="user_closed_is_empty",
            ),
        ),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("closed_at__isnull", True),
                    ("closed_at__gte", models.F("created_at")),
                    _connector="OR",
                ),
                name="user_closed_after_created",
            ),
        ),
        migrations.AddConstraint(
            model_name="access",
            constraint=models.UniqueConstraint(
                fields=("user", "operator"), name="access_once_an_operator"
            ),
        ),
        migrations.RunSQL(ACCESS_SQL, ACCESS_BACK_SQL),
    ]
