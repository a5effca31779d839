"""Addresses under /api/v1/ that this room serves."""

from django.urls import path

from metering.api import (
    adjustments,
    authorize,
    events,
    keys,
    quarantine,
    repeats,
    reports,
    reratings,
    reservations,
    usage_records,
    usage_windows,
)

urlpatterns = [
    path("usage-records", usage_records.UsageRecords.as_view()),
    path("authorize", authorize.AuthorizeDoor.as_view()),
    path("authorize/<path:original>", authorize.AuthorizeAddressDoor.as_view()),
    path("reservations", reservations.ReservationsDoor.as_view()),
    path("reservations/<path:name>/usage", reservations.ReportDoor.as_view()),
    path("reservations/<path:name>/commit", reservations.CommitDoor.as_view()),
    path("reservations/<path:name>/release", reservations.ReleaseDoor.as_view()),
    path("events", events.Events.as_view()),
    path("events/batch", events.EventBatches.as_view()),
    path("subscribers/<str:external_id>/usage", reports.UsageDoor.as_view()),
    path("subscribers/<str:external_id>/usage-records", reports.UsageRecordsDoor.as_view()),
    path(
        "subscribers/<str:external_id>/usage-records/<path:record_id>/void",
        adjustments.VoidDoor.as_view(),
    ),
    path(
        "subscribers/<str:external_id>/usage-records/<path:record_id>/correct",
        adjustments.CorrectDoor.as_view(),
    ),
    path("re-ratings", reratings.ReratingsDoor.as_view()),
    path("re-ratings/<int:run_id>", reratings.ReratingDoor.as_view()),
    path("re-ratings/<int:run_id>/subscribers", reratings.ReratingSubscribersDoor.as_view()),
    path("adjustments", adjustments.AdjustmentsDoor.as_view()),
    path("keys/introspect", keys.IntrospectionDoor.as_view()),
    path("subscribers/<str:external_id>/keys", keys.KeysDoor.as_view()),
    path("subscribers/<str:external_id>/keys/<int:key_id>", keys.KeyDoor.as_view()),
    path(
        "subscribers/<str:external_id>/keys/<int:key_id>/rotate",
        keys.KeyRotationDoor.as_view(),
    ),
    path(
        "subscribers/<str:external_id>/keys/<int:key_id>/revoke",
        keys.KeyRevocationDoor.as_view(),
    ),
    path("quarantine", quarantine.QuarantineDoor.as_view()),
    path("quarantine/<int:quarantine_id>/retry", quarantine.QuarantineRetryDoor.as_view()),
    path("suspected-repeats", repeats.SuspectedRepeatsDoor.as_view()),
    path("suspected-repeats/<int:repeat_id>/dismiss", repeats.DismissDoor.as_view()),
    path("usage-counters", usage_windows.UsageCountersDoor.as_view()),
    path("usage-windows", usage_windows.UsageWindowsDoor.as_view()),
    path("usage-windows/<int:window_id>", usage_windows.UsageWindowDoor.as_view()),
    path("usage-windows/<int:window_id>/compare", usage_windows.CompareDoor.as_view()),
    path("usage-windows/<int:window_id>/resend", usage_windows.ResendDoor.as_view()),
    path("usage-windows/<int:window_id>/close", usage_windows.CloseDoor.as_view()),
]
