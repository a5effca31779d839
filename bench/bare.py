"""The platform with two addresses more: Django views that do one SELECT by primary key, and one
INSERT.

What any answer of the web workers costs at the least; `authorize` and a provider's webhook are held
against them.
"""

from __future__ import annotations

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from config.wsgi import application  # before any model: it sets Django up
from subscriptions.models import Subscriber

__all__ = ["application", "urlpatterns"]


def bare(request: HttpRequest, pk: int) -> JsonResponse:
    """A subscriber's name."""
    return JsonResponse({"name": Subscriber.objects.get(pk=pk).name})


@csrf_exempt
def bare_note(request: HttpRequest) -> HttpResponse:
    """Keeps what it is sent."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO bench_note (body) VALUES (%s)", [request.body])
    return HttpResponse()


urlpatterns = [
    path("bare/<int:pk>", bare),
    path("v1/bare-note", bare_note),
    path("", include("config.urls")),
]
settings.ROOT_URLCONF = __name__
