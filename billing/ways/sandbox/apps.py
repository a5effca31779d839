from django.apps import AppConfig


class SandboxConfig(AppConfig):
    name = "billing.ways.sandbox"
    label = "sandbox"
