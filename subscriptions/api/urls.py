"""Addresses under /api/v1/ that this room serves."""

from django.urls import path

from subscriptions.api import (
    coupons,
    offerings,
    operators,
    subscribers,
    subscriptions,
    taxes,
    webhooks,
)

urlpatterns = [
    path("operator", operators.OperatorDoorItself.as_view()),
    path("plans", offerings.PlansDoor.as_view()),
    path("plans/<str:code>", offerings.PlanDoor.as_view()),
    path("boosters/<str:code>", offerings.BoosterDoor.as_view()),
    path("tax-rates", taxes.TaxRatesDoor.as_view()),
    path("tax-rates/<str:category>", taxes.TaxRateDoor.as_view()),
    path("coupons", coupons.CouponsDoor.as_view()),
    path("coupons/<str:code>", coupons.CouponDoor.as_view()),
    path("subscribers", subscribers.SubscribersDoor.as_view()),
    path("subscribers/batch", subscribers.SubscriberBatchDoor.as_view()),
    path("subscribers/<str:external_id>", subscribers.SubscriberDoor.as_view()),
    path(
        "subscribers/<str:external_id>/subscriptions",
        subscriptions.SubscriptionsDoor.as_view(),
    ),
    path(
        "subscribers/<str:external_id>/subscriptions/<int:subscription_id>",
        subscriptions.SubscriptionDoor.as_view(),
    ),
    path(
        "subscribers/<str:external_id>/subscriptions/<int:subscription_id>/pause",
        subscriptions.PauseDoor.as_view(),
    ),
    path(
        "subscribers/<str:external_id>/subscriptions/<int:subscription_id>/resume",
        subscriptions.ResumeDoor.as_view(),
    ),
    path(
        "subscribers/<str:external_id>/subscriptions/<int:subscription_id>/coupons",
        coupons.RedemptionsDoor.as_view(),
    ),
    path("subscribers/<str:external_id>/boosters", subscriptions.BoosterSalesDoor.as_view()),
    path("subscribers/<str:external_id>/grants", subscriptions.GrantsDoor.as_view()),
    path("subscribers/<str:external_id>/balance", subscriptions.BalanceDoor.as_view()),
    path("webhook-endpoints", webhooks.EndpointsDoor.as_view()),
    path("webhook-endpoints/<int:endpoint_id>", webhooks.EndpointDoor.as_view()),
    path("webhook-endpoints/<int:endpoint_id>/rotate-secret", webhooks.RotationDoor.as_view()),
    path("webhook-endpoints/<int:endpoint_id>/enable", webhooks.EnablingDoor.as_view()),
    path("webhook-endpoints/<int:endpoint_id>/disable", webhooks.DisablingDoor.as_view()),
    path("webhook-endpoints/<int:endpoint_id>/test", webhooks.TestDoor.as_view()),
    path("webhook-endpoints/<int:endpoint_id>/replay", webhooks.EndpointReplayDoor.as_view()),
    path("webhook-endpoints/<int:endpoint_id>/deliveries", webhooks.DeliveriesDoor.as_view()),
    path("webhook-deliveries/<int:delivery_id>", webhooks.DeliveryDoor.as_view()),
    path("webhook-deliveries/<int:delivery_id>/replay", webhooks.DeliveryReplayDoor.as_view()),
]
