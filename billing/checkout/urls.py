"""Addresses of pay pages."""

from django.urls import path

from billing.checkout import pages

urlpatterns = [
    path("return/<str:token>", pages.back, name="pay-return"),
    path("<str:token>", pages.pay, name="pay"),
    path("<str:token>/state", pages.state, name="pay-state"),
    path("<str:token>/again", pages.again, name="pay-again"),
]
