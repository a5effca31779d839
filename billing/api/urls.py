"""Addresses under /api/v1/ that this room serves."""

from django.urls import path

from billing.api import (
    collecting,
    corrections,
    credits,
    documents,
    dunning,
    figures,
    invoices,
    orders,
    test_clock,
    transfers,
    wallets,
)

urlpatterns = [
    path("subscribers/<str:external_id>/invoices", invoices.SubscriberInvoicesDoor.as_view()),
    path("invoices/<str:number>.pdf", documents.InvoiceDocumentDoor.as_view()),
    path("figures", figures.FiguresDoor.as_view()),
    path("letterhead", documents.LetterheadDoor.as_view()),
    path("invoices/<str:number>", invoices.InvoiceDoor.as_view()),
    path("invoices/<str:number>/credit", credits.CreditDoor.as_view()),
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
    path("subscribers/<str:external_id>/orders", orders.SubscriberOrdersDoor.as_view()),
    path("orders", orders.OrdersDoor.as_view()),
    path("orders/<str:number>", orders.OrderDoor.as_view()),
    path("orders/<str:number>/cancel", orders.OrderCancelDoor.as_view()),
    path("orders/<str:number>/pay", orders.OrderPayDoor.as_view()),
    path("subscribers/<str:external_id>/wallet", wallets.WalletDoor.as_view()),
    path("subscribers/<str:external_id>/wallet/movements", wallets.WalletStatementDoor.as_view()),
    path("subscribers/<str:external_id>/consents", collecting.ConsentsDoor.as_view()),
    path(
        "subscribers/<str:external_id>/consents/<str:number>/withdraw",
        collecting.ConsentWithdrawDoor.as_view(),
    ),
    path("subscribers/<str:external_id>/collections", collecting.CollectionsDoor.as_view()),
    path("collection-policy", collecting.CollectionPolicyDoor.as_view()),
    path("transfers", transfers.TransfersDoor.as_view()),
    path("transfers/<int:transfer_id>", transfers.TransferDoor.as_view()),
    path("transfers/<int:transfer_id>/match", transfers.TransferMatchDoor.as_view()),
    path("correction-policy", corrections.PolicyDoor.as_view()),
    path("approvals", corrections.ApprovalsDoor.as_view()),
    path("approvals/<int:approval_id>", corrections.ApprovalDoor.as_view()),
    path("approvals/<int:approval_id>/approve", corrections.ApproveDoor.as_view()),
    path("approvals/<int:approval_id>/reject", corrections.RejectDoor.as_view()),
    path("test-clock", test_clock.TestClockDoor.as_view()),
]
