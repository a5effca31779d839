"""Every address of the platform."""

from __future__ import annotations

from django.conf import settings
from django.urls import include, path
from django.views.i18n import set_language
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from billing.api.notices import webhook
from config import pages
from config.health import healthz
from subscriptions.api.declining import decline
from subscriptions.console.account import second_factor
from subscriptions.console.site import site

urlpatterns = [
    path("healthz", healthz),
    path("api/v1/", include("metering.api.urls")),
    path("api/v1/", include("subscriptions.api.urls")),
    path("api/v1/", include("billing.api.urls")),
    path("", include("metering.api.vendor_urls")),
    path("webhooks/<slug:provider>/<slug:public_id>", webhook),
    path("pay/", include("billing.checkout.urls")),
    path("sandbox/", include("billing.ways.sandbox.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("notices/decline/<str:token>", decline, name="decline-notices"),
    path("accounts/", include("subscriptions.users.urls")),
    path("admin/", site.urls),
    path("staff/second-factor/", second_factor, name="console_second_factor"),
    path("", include("billing.portal.urls")),
    path("language", set_language, name="language"),
    path("theme", pages.choose_theme, name="theme"),
]
if settings.DEBUG:
    urlpatterns.append(path("styleguide/", pages.styleguide, name="styleguide"))

handler400 = "config.pages.bad_request"
handler403 = "config.pages.forbidden"
handler404 = "config.pages.not_found"
handler429 = "config.pages.too_many"
handler500 = "config.pages.server_error"
