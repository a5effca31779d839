"""How a line came about, in words a subscriber can follow: from its `basis` alone."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from billing.models import Invoice, InvoiceLine
from billing.wording import Voice
from subscriptions import periods


def explain(invoice: Invoice) -> Iterator[str]:
    """The lines of text that say what an invoice is made of, exactly and in English."""
    voice = Voice()
    zone = ZoneInfo(invoice.operator.time_zone)
    due = f", due {periods.day_of(invoice.due_at, zone)}" if invoice.due_at else ""
    yield f"{invoice.number or 'Draft'} ({invoice.state}{due})"
    start, end = (periods.local(at, zone) for at in (invoice.period_start, invoice.period_end))
    yield f"for {start} to {end}"
    lines = InvoiceLine.objects.filter(
        subscriber_id=invoice.subscriber_id, invoice_id=invoice.id
    ).order_by("nr")
    for line in lines:
        yield ""
        yield f"{line.nr}. {line.kind}: {line.description}"
        for sentence in steps(line, voice):
            yield f"   {sentence}"
        if "tax_category" in line.basis:
            since = line.basis["tax_since"]
            yield f"   taxed as {line.basis['tax_category']} is since {since}"
        rate = (line.tax_rate * 100).normalize()
        yield (
            f"   {line.gross} with tax: {line.gross} / (1 + {rate:f} %) = {line.net} net,"
            f" {line.gross} - {line.net} = {line.tax} tax"
        )
    yield ""
    yield (
        f"Total, the sums of the lines: {invoice.net} net + {invoice.tax} tax ="
        f" {invoice.gross} {invoice.currency}"
    )
    if invoice.paid:
        yield f"Paid: {invoice.paid}; still due: {invoice.gross - invoice.paid}"


def steps(line: InvoiceLine, voice: Voice) -> Iterator[str]:
    """What a line was computed from, sentence by sentence."""
    basis: dict[str, Any] = line.basis
    say = voice.say
    if "credits" in basis:
        yield say(
            f"takes back of line {basis['line']} of {basis['credits']}",
            f"冲减账单 {basis['credits']} 第 {basis['line']} 行",
        )
        if "drawn" not in basis:
            return
    if "plan" in basis:
        span = voice.span(basis["from"], basis["until"]) if "from" in basis else ""
        if voice.exact:
            yield ", ".join(
                filter(None, (f"plan {basis['plan']} version {basis['version']}", span))
            )
        elif span:
            yield span
    if "booster" in basis and voice.exact:
        yield f"booster {basis['booster']} version {basis['version']} at {basis['price']}"
    if "sold_at" in basis:
        units, at = voice.units(line.units or 0), voice.instant(basis["sold_at"])
        yield say(f"{units} units of {at}", f"{units} 词元，{at}")
    if line.kind == InvoiceLine.Kind.FEE:
        yield from _fee(basis, voice)
    elif line.kind == InvoiceLine.Kind.UPGRADE and "days" in basis:
        yield from _upgrade(line, basis, voice)
    elif line.kind == InvoiceLine.Kind.REFUND and "share" in basis:
        yield from _refund(basis, voice)
    elif "drawn" in basis:
        yield from _overflow(line, basis, voice)
    elif line.kind == InvoiceLine.Kind.LATE_FEE and "late" in basis:
        yield from _late_fee(line, basis, voice)
    elif line.kind == InvoiceLine.Kind.COMPENSATION:
        over, factor = voice.price(basis["over_charge"]), Decimal(basis["factor"]).normalize()
        yield say(
            f"{over} was charged by the operator's fault and is repaid {factor:f} times: {over} x"
            f" ({factor:f} - 1) beyond it, without tax",
            f"多收 {over}，按 {factor:f} 倍返还：{over} × ({factor:f} - 1)，不计税",
        )
    elif line.kind == InvoiceLine.Kind.DISCOUNT:
        share = f" ({basis['percent']} %)" if "percent" in basis else ""
        if "coupon" in basis:
            yield from _coupon(basis, voice)
        yield say(
            f"{basis['discount']}{share} off {basis['of']}: so much for line {basis['line']}",
            f"从 {basis['of']} 中优惠 {basis['discount']}{share}，本行分摊自第 {basis['line']} 行",
        )


def _fee(basis: dict[str, Any], voice: Voice) -> Iterator[str]:
    price = voice.price(basis["price"])
    if "days" in basis:
        days, of = basis["days"], basis["of_days"]
        yield voice.say(f"{price} x {days} of {of} days", f"{price} × {days} 天 ÷ {of} 天")
    elif voice.exact:
        yield f"{price} for the whole period"
    yield from _component(basis, voice)
    if "unpaid" in basis:
        yield voice.say(
            "it was to be paid before, and was not: no bucket opened, nothing is owed",
            "本期应预先支付而未支付：套餐未开通，不收取费用",
        )


def _component(basis: dict[str, Any], voice: Voice) -> Iterator[str]:
    """A plan of several tax rates: which share of its price a line is."""
    if "component" in basis:
        part, price = voice.price(basis["component"]), voice.price(basis["price"])
        fee = voice.price(basis["fee"])
        yield voice.say(
            f"{part} of the {price}: its share of {fee}",
            f"套餐价 {price} 中的 {part}，按比例分摊 {fee}",
        )


def _upgrade(line: InvoiceLine, basis: dict[str, Any], voice: Voice) -> Iterator[str]:
    at = voice.instant(basis["at"])
    old, new = voice.price(basis["old_price"]), voice.price(basis["price"])
    days, of, units = basis["days"], basis["of_days"], voice.units(line.units or 0)
    yield voice.say(
        f"from plan {basis['old_plan']} version {basis['old_version']} at {at}",
        f"{at} 由套餐 {basis['old_plan']}（第 {basis['old_version']} 版）变更",
    )
    yield voice.say(
        f"({new} - {old}) x {days} of {of} days, with {units} units more",
        f"({new} - {old}) × {days} 天 ÷ {of} 天，另增 {units} 词元",
    )
    yield from _component(basis, voice)


def _refund(basis: dict[str, Any], voice: Voice) -> Iterator[str]:
    ended_at = voice.instant(basis["ended_at"])
    share, whole, nr = basis["share"], basis["whole"], basis["line"]
    of, refund = voice.price(basis["of"]), voice.price(basis["refund"])
    yield voice.say(
        f"ended at {ended_at}: {basis['reason']}", f"{ended_at} 终止：{basis['reason']}"
    )
    yield voice.say(
        f"{share} of {whole} of the {of} for the period = {refund}: so much of line {nr}",
        f"本期 {of} × {share} ÷ {whole} = {refund}，本行冲减第 {nr} 行",
    )


def _coupon(basis: dict[str, Any], voice: Voice) -> Iterator[str]:
    nth_en, nth_zh, left_en, left_zh = "", "", "", ""
    if "nth" in basis:
        nth_en = f", period {basis['nth']} of {basis['periods']}"
        nth_zh = f"，共 {basis['periods']} 期之第 {basis['nth']} 期"
    if "price" in basis:
        price = voice.price(basis["price"])
        left_en, left_zh = f", which leaves {price}", f"，优惠后 {price}"
    yield voice.say(
        f"coupon {basis['coupon']}{nth_en}{left_en}",
        f"优惠券 {basis['coupon']}{nth_zh}{left_zh}",
    )


def _overflow(line: InvoiceLine, basis: dict[str, Any], voice: Voice) -> Iterator[str]:
    say = voice.say
    drawn = voice.units(basis["drawn"])
    if "blocks" in basis:
        packs, size = basis["blocks"], voice.units(basis["block_units"])
        price = voice.price(basis["block_price"])
        yield say(
            f"{drawn} units beyond the allowance: {packs} packs of {size} at {price}",
            f"超出套餐 {drawn} 词元：{packs} 包，每包 {size} 词元，单价 {price}",
        )
    elif "tiers" in basis:
        way = (
            say("each unit by its tier", "分档累进")
            if basis["graduated"]
            else say("all units by the tier of the sum", "按总量所在档计价")
        )
        tiers = say("; ", "；").join(
            say(f"{voice.price(price)} beyond", f"以上 {voice.price(price)}")
            if up_to is None
            else say(
                f"{voice.price(price)} to {voice.units(up_to)}",
                f"至 {voice.units(up_to)} 词元 {voice.price(price)}",
            )
            for up_to, price in basis["tiers"]
        )
        yield say(
            f"{drawn} units beyond the allowance, per million, {way}: {tiers}",
            f"超出套餐 {drawn} 词元，每百万词元{way}：{tiers}",
        )
    else:
        exact = Decimal(basis["price_per_million"]) * basis["drawn"] / 1_000_000_000
        price = voice.price(basis["price_per_million"])
        yield say(
            f"{drawn} units beyond the allowance x {price} per million = {exact.normalize():f}",
            f"超出套餐 {drawn} 词元 × 每百万 {price} = {exact.normalize():f}",
        )
    if "cap" in basis:
        cap = voice.price(basis["cap"])
        yield say(f"never more than {cap}", f"封顶 {cap}")
    if "billed" in basis:
        gross, units = voice.price(basis["billed_gross"]), voice.units(basis["billed"])
        yield say(
            f"less {gross} for {units} units billed before: {line.gross}",
            f"减去此前已计费的 {units} 词元 {gross}，得 {line.gross}",
        )


def price_of(line: InvoiceLine, voice: Voice) -> str:
    """What one of it costs, where there is such a price: short enough for a column."""
    basis: dict[str, Any] = line.basis
    if "tiers" in basis:
        return voice.say("tiered", "阶梯价")
    if "block_price" in basis:
        price = voice.price(basis["block_price"])
        return voice.say(f"{price} / pack", f"{price} / 包")
    if "price_per_million" in basis:
        price = voice.price(basis["price_per_million"])
        return voice.say(f"{price} / million", f"{price} / 百万")
    if line.kind == InvoiceLine.Kind.DISCOUNT and "percent" in basis:
        return f"{Decimal(basis['percent']).normalize():f} %"
    if line.kind == InvoiceLine.Kind.UPGRADE and "old_price" in basis:
        return voice.price(str(Decimal(basis["price"]) - Decimal(basis["old_price"])))
    if "component" in basis:
        return voice.price(basis["component"])
    return voice.price(basis["price"]) if "price" in basis else ""


def _late_fee(line: InvoiceLine, basis: dict[str, Any], voice: Voice) -> Iterator[str]:
    due_at, until = voice.instant(basis["due_at"]), voice.instant(basis["until"])
    yield voice.say(
        f"invoice {basis['late']} was due at {due_at}; counted until {until}",
        f"账单 {basis['late']} 应于 {due_at} 前付款，计至 {until}",
    )
    for amount, days in basis["spells"]:
        part = (Decimal(amount) * days * Decimal(basis["rate"])).normalize()
        owed, rate = voice.price(amount), basis["rate"]
        yield voice.say(
            f"{owed} owed for {days} whole days x {rate} a day = {part:f}",
            f"欠费 {owed} × {days} 天 × 日费率 {rate} = {part:f}",
        )
    cap, accrued = voice.price(basis["cap"]), voice.price(basis["accrued"])
    yield voice.say(f"never more than {cap}: {accrued}", f"不超过 {cap}：{accrued}")
    if Decimal(basis["billed_gross"]):
        before = voice.price(basis["billed_gross"])
        yield voice.say(
            f"less {before} on bills before: {line.gross}",
            f"减去此前账单已计的 {before}，得 {line.gross}",
        )
