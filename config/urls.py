"""Every address of the platform."""

from __future__ import annotations

from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from billing.api.notices import webhook
from config.health import healthz

urlpatterns = [
    path("healthz", healthz),
    path("api/v1/", include("metering.api.urls")),
    path("api/v1/", include("subscriptions.api.urls")),
    path("api/v1/", include("billing.api.urls")),
    path("", include("metering.api.vendor_urls")),
    path("webhooks/<slug:provider>/<slug:public_id>", webhook),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
]

handler400 = "subscriptions.api.problems.bad_request"
handler403 = "subscriptions.api.problems.forbidden"
handler404 = "subscriptions.api.problems.not_found"
handler500 = "subscriptions.api.problems.server_error"
