from django.apps import AppConfig
from django.db.models.signals import post_migrate


class SubscriptionsConfig(AppConfig):
    name = "subscriptions"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from subscriptions import instants, lookups
        from subscriptions.console.site import write_groups

        instants.register()
        lookups.register()
        post_migrate.connect(write_groups, dispatch_uid="groups of the console")
