"""Addresses under /api/v1/ that this room serves."""

from django.urls import path

from billing.api import documents, dunning, invoices, test_clock

urlpatterns = [
    path("subscribers/<str:external_id>/invoices", invoices.SubscriberInvoicesDoor.as_view()),
    path("invoices/<str:number>.pdf", documents.InvoiceDocumentDoor.as_view()),
    path("letterhead", documents.LetterheadDoor.as_view()),
    path("invoices/<str:number>", invoices.InvoiceDoor.as_view()),
    path("invoices/<str:number>/credit", invoices.CreditDoor.as_view()),
    path("invoices/<str:number>/void", invoices.VoidDoor.as_view()),
    path("dunning", dunning.DunningDoor.as_view()),
    path("dunning/stop", dunning.StopDunningDoor.as_view()),
    path("dunning/resume", dunning.ResumeDunningDoor.as_view()),
    path("subscribers/<str:external_id>/dunning", dunning.SubscriberDunningDoor.as_view()),
    path("subscribers/<str:external_id>/dunning/stop", dunning.StopSubscriberDunningDoor.as_view()),
    path(
        "subscribers/<str:external_id>/dunning/resume",
        dunning.ResumeSubscriberDunningDoor.as_view(),
    ),
    path("test-clock", test_clock.TestClockDoor.as_view()),
]
