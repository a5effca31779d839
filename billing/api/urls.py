"""Addresses under /api/v1/ that this room serves."""

from django.urls import path

from billing.api import test_clock

urlpatterns = [path("test-clock", test_clock.TestClockDoor.as_view())]
