"""Addresses under /api/v1/ that this room serves."""

from django.urls import path

from billing.api import corrections, credits, documents, invoices, test_clock

urlpatterns = [
    path("subscribers/<str:external_id>/invoices", invoices.SubscriberInvoicesDoor.as_view()),
    path("invoices/<str:number>.pdf", documents.InvoiceDocumentDoor.as_view()),
    path("letterhead", documents.LetterheadDoor.as_view()),
    path("invoices/<str:number>", invoices.InvoiceDoor.as_view()),
    path("invoices/<str:number>/credit", credits.CreditDoor.as_view()),
    path("invoices/<str:number>/void", invoices.VoidDoor.as_view()),
    path("correction-policy", corrections.PolicyDoor.as_view()),
    path("approvals", corrections.ApprovalsDoor.as_view()),
    path("approvals/<int:approval_id>", corrections.ApprovalDoor.as_view()),
    path("approvals/<int:approval_id>/approve", corrections.ApproveDoor.as_view()),
    path("approvals/<int:approval_id>/reject", corrections.RejectDoor.as_view()),
    path("test-clock", test_clock.TestClockDoor.as_view()),
]
