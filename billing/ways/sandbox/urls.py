"""The sandbox's addresses."""

from django.urls import path

from billing.ways.sandbox import pages

urlpatterns = [
    path("pay/<slug:secret>", pages.payment, name="sandbox-payment"),
    path("pay/<slug:secret>/act", pages.act, name="sandbox-act"),
]
