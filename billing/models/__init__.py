"""Tables of this room, one file per subject."""

from billing.models.anomalies import AnomalyCase, AnomalyPolicy, AnomalyStep, AnomalySweep
from billing.models.approvals import Approval
from billing.models.auto_top_up import AutoTopUp, AutoTopUpRun
from billing.models.charge_files import ChargeFile, ChargeLine
from billing.models.closes import CloseChunk, ClosePause, FinalSweep
from billing.models.collecting import (
    CollectionCase,
    CollectionPolicy,
    CollectionStep,
    Consent,
)
from billing.models.complaints import Complaint, ComplaintMessage, ComplaintPolicy
from billing.models.corrections import CorrectionPolicy
from billing.models.costs import (
    CostCard,
    CostDay,
    CostEntry,
    CostPrice,
    Settlement,
    SettlementLine,
    Supplier,
    SupplierGateway,
)
from billing.models.deferrals import Deferral, DeferralSweep
from billing.models.documents import Document, Letterhead
from billing.models.dunning import (
    DunningCase,
    DunningCursor,
    DunningEvent,
    DunningPolicy,
    DunningStop,
    ReminderCursor,
)
from billing.models.fapiao import FapiaoItem, FapiaoRequest
from billing.models.figures import DayFigures
from billing.models.handovers import Handover, RecyclingPolicy
from billing.models.interchange import (
    ExportJob,
    ExportPart,
    ImportChunk,
    ImportJob,
    ImportPart,
)
from billing.models.invoices import Invoice, InvoiceCounter, InvoiceLine, InvoiceNumber
from billing.models.ledger import Account, Entry, Posting
from billing.models.methods import PaymentMethod
from billing.models.orders import Order, OrderStep, PaymentIntent
from billing.models.payments import Payment
from billing.models.personal_data import PersonalDataExport, PersonalDataPart
from billing.models.phone_bills import PhoneBillAnswer, PhoneBillCharge
from billing.models.prices import PriceDraft
from billing.models.provider_books import PaymentDifference, ProviderFile, ProviderLine
from billing.models.providers import (
    PaymentTask,
    ProviderAccount,
    ProviderEvent,
    ProviderPayment,
    ProviderSecret,
)
from billing.models.receipts import PlanReceipt
from billing.models.refunds import Dispute, DisputeStep, Refund, RefundStep
from billing.models.transfers import BankTransfer
from billing.models.vouchers import (
    Voucher,
    VoucherBatch,
    VoucherMisses,
    VoucherSet,
    VoucherStep,
)
from billing.models.wallets import (
    BonusRule,
    TopUpPolicy,
    Wallet,
    WalletBonus,
    WalletBonusEntry,
    WalletHold,
    WalletMovement,
)

__all__ = [
    "Account",
    "AnomalyCase",
    "AnomalyPolicy",
    "AnomalyStep",
    "AnomalySweep",
    "Approval",
    "AutoTopUp",
    "AutoTopUpRun",
    "BankTransfer",
    "BonusRule",
    "ChargeFile",
    "ChargeLine",
    "CloseChunk",
    "ClosePause",
    "CollectionCase",
    "CollectionPolicy",
    "CollectionStep",
    "Complaint",
    "ComplaintMessage",
    "ComplaintPolicy",
    "Consent",
    "CorrectionPolicy",
    "CostCard",
    "CostDay",
    "CostEntry",
    "CostPrice",
    "DayFigures",
    "Deferral",
    "DeferralSweep",
    "Dispute",
    "DisputeStep",
    "Document",
    "DunningCase",
    "DunningCursor",
    "DunningEvent",
    "DunningPolicy",
    "DunningStop",
    "Entry",
    "ExportJob",
    "ExportPart",
    "FapiaoItem",
    "FapiaoRequest",
    "FinalSweep",
    "Handover",
    "ImportChunk",
    "ImportJob",
    "ImportPart",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "InvoiceNumber",
    "Letterhead",
    "Order",
    "OrderStep",
    "Payment",
    "PaymentDifference",
    "PaymentIntent",
    "PaymentMethod",
    "PaymentTask",
    "PersonalDataExport",
    "PersonalDataPart",
    "PhoneBillAnswer",
    "PhoneBillCharge",
    "PlanReceipt",
    "Posting",
    "PriceDraft",
    "ProviderAccount",
    "ProviderEvent",
    "ProviderFile",
    "ProviderLine",
    "ProviderPayment",
    "ProviderSecret",
    "RecyclingPolicy",
    "Refund",
    "RefundStep",
    "ReminderCursor",
    "Settlement",
    "SettlementLine",
    "Supplier",
    "SupplierGateway",
    "TopUpPolicy",
    "Voucher",
    "VoucherBatch",
    "VoucherMisses",
    "VoucherSet",
    "VoucherStep",
    "Wallet",
    "WalletBonus",
    "WalletBonusEntry",
    "WalletHold",
    "WalletMovement",
]
