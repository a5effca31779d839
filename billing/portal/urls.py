"""Addresses of the portal, all of it: what a room shows is in its own `portal` package."""

from django.urls import path

from billing.portal import home, invoices, orders, plans
from metering.portal import usage

urlpatterns = [
    path("", home.home, name="portal_home"),
    path("usage/", usage.overview, name="portal_usage"),
    path("usage/requests/", usage.requests, name="portal_requests"),
    path("usage/table.csv", usage.table, name="portal_usage_csv"),
    path("plans/", plans.tariff, name="portal_plans"),
    path("plans/cancel/", plans.cancel, name="portal_cancel"),
    path("plans/<str:code>/", plans.choose, name="portal_plan"),
    path("boosters/<str:code>/", orders.booster, name="portal_booster"),
    path("orders/<str:number>/", orders.order, name="portal_order"),
    path("invoices/", invoices.listed, name="portal_invoices"),
    path("invoices/<str:number>/", invoices.invoice, name="portal_invoice"),
    path("invoices/<str:number>/pay/", invoices.pay, name="portal_invoice_pay"),
    path("invoices/<str:number>.pdf", invoices.document, name="portal_invoice_pdf"),
]
