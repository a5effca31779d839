"""Addresses that other billing platforms' clients have built in; they stand at the root."""

from django.urls import path

from metering.api import events

urlpatterns = [
    path("v1/billing/meter_events", events.StripeForms.as_view()),
    path("v2/billing/meter_events", events.StripeEvents.as_view()),
    path("v1/events/ingest", events.PolarEvents.as_view()),
    path("v1/track", events.AutumnTrack.as_view()),
    path("v1/balances.track", events.AutumnBalancesTrack.as_view()),
    path("v1/balances.track_tokens", events.AutumnTokens.as_view()),
    path("v1/balances.batch_track_tokens", events.AutumnTokenBatches.as_view()),
    path("v1/traces", events.Traces.as_view()),
    path("v1/logs", events.Logs.as_view()),
]
