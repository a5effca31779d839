"""The platform with one address more: a Django view that does one SELECT by primary key.

What any answer of the web workers costs at the least; `authorize` is held against it.
"""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.urls import include, path

from config.wsgi import application  # before any model: it sets Django up
from subscriptions.models import Subscriber

__all__ = ["application", "urlpatterns"]


def bare(request: HttpRequest, pk: int) -> JsonResponse:
    """A subscriber's name."""
    return JsonResponse({"name": Subscriber.objects.get(pk=pk).name})


urlpatterns = [path("bare/<int:pk>", bare), path("", include("config.urls"))]
settings.ROOT_URLCONF = __name__
