"""How providers' files look: a table of column names, not code for each.

The names are the providers' own: Stripe's itemised balance and payout reports, Alipay's account
statement (账务明细), WeChat Pay's trade bill (交易账单). What a line is about is told by the word
in its `about` column, else by its sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from billing.models import ProviderLine
from billing.ways.stripe.balance import KINDS

PAYMENT, REFUND = ProviderLine.Kind.PAYMENT, ProviderLine.Kind.REFUND
FEE, PAYOUT = ProviderLine.Kind.FEE, ProviderLine.Kind.PAYOUT
DISPUTE = ProviderLine.Kind.DISPUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where in a file what is found. A tuple names several columns of which the first that has
    something is taken; `money_in` less `money_out` is what was moved before fees, and the fee is
    what the provider kept."""

    name: str
    encodings: tuple[str, ...]
    id: tuple[str, ...]
    at: tuple[str, ...]
    money_in: str
    money_out: str = ""
    fee: str = ""
    net: str = ""  # checked against the others, where there is one
    currency: str = ""  # else the operator's
    about: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    # Our own name of it and the provider's.
    key: tuple[str, ...] = ()
    refund_key: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    back_reference: tuple[str, ...] = ()  # of refunds and disputes, where it stands elsewhere
    payout: tuple[str, ...] = ()
    utc: bool = False  # else times are of the operator's zone
    # Lines that are no rows: they begin so.
    comment: str = ""
    ends: str = ""  # the first cell of the summary after the last row
    quote: str = ""  # before every cell


# Both reports have these; which more, whoever makes the report says. The key stands in the
# metadata of the payment.
STRIPE = Layout(
    name="stripe",
    encodings=("utf-8-sig",),
    id=("balance_transaction_id",),
    at=("created_utc", "created"),
    money_in="gross",
    fee="fee",
    net="net",
    currency="currency",
    about="reporting_category",
    kinds=KINDS,
    key=("payment_metadata[key]", "payment_metadata[order]"),
    refund_key=("refund_metadata[key]",),
    reference=("payment_intent_id", "source_id"),
    back_reference=("source_id",),
    payout=("automatic_payout_id", "payout_id"),
    utc=True,
)
ALIPAY = Layout(
    name="alipay",
    encodings=("utf-8-sig", "gb18030"),
    id=("账务流水号",),
    at=("发生时间",),
    money_in="收入金额（+元）",
    money_out="支出金额（-元）",
    about="业务类型",
    kinds={
        "交易付款": PAYMENT,
        "在线支付": PAYMENT,
        "交易退款": REFUND,
        "退款（交易退款）": REFUND,
        "收费": FEE,
        "服务费": FEE,
        "退费": FEE,
        "提现": PAYOUT,
        "转账到银行卡": PAYOUT,
    },
    key=("商户订单号",),
    reference=("业务流水号",),
    comment="#",
)
WECHAT_PAY = Layout(
    name="wechat_pay",
    encodings=("utf-8-sig", "gb18030"),
    # A refund's own id comes first: its order's stands in its line too.
    id=("微信退款单号", "微信订单号"),
    at=("交易时间",),
    money_in="应结订单金额",
    money_out="退款金额",
    fee="手续费",
    currency="货币种类",
    about="交易状态",
    kinds={"SUCCESS": PAYMENT, "REFUND": REFUND, "REVOKED": REFUND},
    key=("商户订单号",),
    refund_key=("商户退款单号",),
    reference=("微信退款单号", "微信订单号"),
    ends="总交易单数",
    quote="`",
)
LAYOUTS = {layout.name: layout for layout in (STRIPE, ALIPAY, WECHAT_PAY)}


def needed(layout: Layout) -> set[str]:
    """The columns that must be there, whatever is in them; of several one of."""
    names = {layout.money_in, layout.money_out, layout.fee, layout.net, layout.currency}
    return (names | {layout.about}) - {""}
