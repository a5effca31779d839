"""What subscribers may put into their wallets, and what they are given with it: the only writer of
TopUpPolicy and BonusRule. A version holds from its instant on and never changes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from django.db import transaction
from django.db.models import Max

from billing import rating
from billing.bonuses import Gift
from billing.models import BonusRule, Order, TopUpPolicy, WalletBonus
from subscriptions.errors import Invalid
from subscriptions.models import Operator

# More is a mistake of somebody who types.
LEAST, MOST = Decimal("0.01"), Decimal("1000000.00")
_RULES, _FIXED = 20, 50
_LONGEST = 3660  # days


class NotOffered(Invalid):
    cause = "top_up_not_offered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who pays `at_least` gets `amount`, or `percent` of what it pays, up to `cap`."""

    at_least: Decimal
    amount: Decimal | None = None
    percent: Decimal | None = None
    cap: Decimal | None = None
    spent: str = WalletBonus.Spent.FIRST
    valid_days: int | None = None

    def bonus(self, paid: Decimal) -> Decimal:
        """What is given to who pays so much, down to the fen."""
        if self.amount is not None:
            return self.amount
        assert self.percent is not None
        share = (paid * self.percent / 100).quantize(LEAST, rounding="ROUND_DOWN")
        return share if self.cap is None else min(share, self.cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is offered: these amounts, and if `free` any from `least` to `most`."""

    fixed: Sequence[Decimal] = ()
    free: bool = True
    least: Decimal = LEAST
    most: Decimal = MOST
    low: Decimal | None = None  # who has less than this hears of it
    rules: Sequence[Rule] = ()
    nr: int = 0  # of its version; 0: nobody has said anything
    effective_from: dt.datetime | None = None

    def offers(self, amount: Decimal) -> bool:
        return amount in self.fixed or (self.free and self.least <= amount <= self.most)

    def rule_for(self, paid: Decimal) -> Rule | None:
        """The rule of the greatest amount that is paid."""
        met = [rule for rule in self.rules if rule.at_least <= paid]
        return max(met, key=lambda rule: rule.at_least) if met else None

    def in_words(self, currency: str) -> str:
        """What can be put in, for people."""
        parts = []
        if self.fixed:
            parts.append(" or ".join(f"{amount:.2f}" for amount in self.fixed))
        if self.free:
            parts.append(f"any amount from {self.least:.2f} to {self.most:.2f}")
        return f"{', or '.join(parts)} {currency}"


def put(
    operator: Operator, policy: Policy, *, by: str, at: dt.datetime, effective_from: dt.datetime
) -> Policy:
    """Let a policy hold from an instant on, until that of a later version. Raises Invalid."""
    _check(policy, at=at, effective_from=effective_from)
    with transaction.atomic():
        Operator.objects.select_for_update(no_key=True).get(pk=operator.pk)
        rows = TopUpPolicy.objects.filter(operator=operator)
        nr = (rows.aggregate(last=Max("nr"))["last"] or 0) + 1
        TopUpPolicy.objects.create(
            operator=operator,
            nr=nr,
            effective_from=effective_from,
            made_by=by,
            made_at=at,
            fixed=sorted(policy.fixed),
            free=policy.free,
            least=policy.least,
            most=policy.most,
            low=policy.low,
        )
        BonusRule.objects.bulk_create(
            [
                BonusRule(
                    operator_id=operator.pk,
                    policy_nr=nr,
                    at_least=rule.at_least,
                    amount=rule.amount,
                    percent=rule.percent,
                    cap=rule.cap,
                    spent=rule.spent,
                    valid_days=rule.valid_days,
                )
                for rule in policy.rules
            ]
        )
    [found] = [one for one in versions(operator.pk) if one.nr == nr]
    return found


def _check(policy: Policy, *, at: dt.datetime, effective_from: dt.datetime) -> None:
    if effective_from < at:
        raise Invalid("effective_from lies in the past: what was offered then stays as it was")
    amounts = [*policy.fixed, policy.least, policy.most]
    if any(not LEAST <= amount <= MOST or amount != rating.to_fen(amount) for amount in amounts):
        raise Invalid(f"amounts are {LEAST} to {MOST}, to the fen")
    if len(set(policy.fixed)) != len(policy.fixed) or len(policy.fixed) > _FIXED:
        raise Invalid(f"each fixed amount is named once, {_FIXED} at most")
    if policy.least > policy.most:
        raise Invalid("the least free amount is above the most")
    if not policy.free and not policy.fixed:
        raise Invalid("offer fixed amounts, or allow free ones")
    if policy.low is not None and not LEAST <= policy.low <= MOST:
        raise Invalid(f"low_balance is {LEAST} to {MOST}, or none")
    if len({rule.at_least for rule in policy.rules}) != len(policy.rules):
        raise Invalid("two bonus rules begin at the same amount")
    if len(policy.rules) > _RULES:
        raise Invalid(f"{_RULES} bonus rules at most")
    for rule in policy.rules:
        if (rule.amount is None) == (rule.percent is None):
            raise Invalid("a bonus is an amount or a percentage")
        if rule.cap is not None and rule.percent is None:
            raise Invalid("only a percentage has a cap")
        if not LEAST <= rule.at_least <= MOST:
            raise Invalid(f"at_least is {LEAST} to {MOST}")
        if rule.percent is not None and not 0 < rule.percent <= 100:
            raise Invalid("a bonus is above 0 %, at most 100 %")
        if any(one is not None and not LEAST <= one <= MOST for one in (rule.amount, rule.cap)):
            raise Invalid(f"a bonus and its cap are {LEAST} to {MOST}")
        if rule.valid_days is not None and not 1 <= rule.valid_days <= _LONGEST:
            raise Invalid(f"a bonus is valid for 1 to {_LONGEST} days, or for good")


# Reading -----------------------------------------------------------------------------------------


def versions(operator_id: int) -> list[Policy]:
    """Every version, the first made first."""
    rules: dict[int, list[Rule]] = {}
    for row in BonusRule.objects.filter(operator_id=operator_id).order_by("policy_nr", "at_least"):
        rules.setdefault(row.policy_nr, []).append(
            Rule(
                at_least=row.at_least,
                amount=row.amount,
                percent=row.percent,
                cap=row.cap,
                spent=row.spent,
                valid_days=row.valid_days,
            )
        )
    return [
        Policy(
            fixed=row.fixed,
            free=row.free,
            least=row.least,
            most=row.most,
            low=row.low,
            rules=rules.get(row.nr, ()),
            nr=row.nr,
            effective_from=row.effective_from,
        )
        for row in TopUpPolicy.objects.filter(operator_id=operator_id).order_by("nr")
    ]


def policy_at(operator_id: int, *, at: dt.datetime) -> Policy:
    """What is offered at an instant: of the versions that hold by then, that of the latest instant,
    and of the same the last made."""
    held = [one for one in versions(operator_id) if one.effective_from and one.effective_from <= at]
    return max(held, key=lambda one: (one.effective_from, one.nr), default=Policy())


def low_mark(operator_id: int, *, at: dt.datetime) -> Decimal | None:
    """Below which a wallet's subscriber hears of it."""
    rows = TopUpPolicy.objects.filter(operator_id=operator_id, effective_from__lte=at)
    row = rows.order_by("-effective_from", "-nr").first()
    return None if row is None else row.low


def check_amount(operator: Operator, amount: Decimal, *, at: dt.datetime) -> None:
    """Raises NotOffered for an amount that cannot be put into a wallet."""
    policy = policy_at(operator.pk, at=at)
    if not policy.offers(amount):
        raise NotOffered(f"a top-up is {policy.in_words(operator.currency)}")


def bonus_of(order: Order, *, at: dt.datetime) -> tuple[Decimal, Gift] | None:
    """What is given at `at` with a top-up that is paid then, if anything: as was offered when it
    was ordered."""
    policy = policy_at(order.operator_id, at=order.created_at)
    rule = policy.rule_for(order.amount)
    amount = rating.ZERO if rule is None else rule.bonus(order.amount)
    if rule is None or not amount:
        return None
    days = rule.valid_days
    expires_at = None if days is None else at + dt.timedelta(days=days)
    return amount, Gift(rule.spent, expires_at, order.id, policy.nr)
