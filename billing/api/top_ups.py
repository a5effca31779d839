"""Doors for what may be put into wallets, and for wallets that are filled by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import methods, top_up_policies
from billing.api.corrections import person_of
from billing.auto_top_up import agreements
from billing.auto_top_up.agreements import Terms
from billing.models import AutoTopUp, AutoTopUpRun, WalletBonus
from billing.orders import keeping
from billing.top_up_policies import Policy, Rule
from subscriptions import clock, registry
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import (
    Instant,
    Percent,
    Price,
    Text,
    money_to_wire,
    plain,
    to_wire_time,
)
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import EXTERNAL_ID, IDEMPOTENCY_KEY, refusals
from subscriptions.errors import Invalid, NotFound
from subscriptions.models import Operator


class BonusRuleBody(serializers.Serializer[Any]):
    """Who pays `at_least` gets `amount`, or `percent` of what it pays up to `cap`."""

    at_least = Price()
    amount = Price(required=False)
    percent = Percent(required=False)
    cap = Price(required=False, help_text="of a percentage; default: none")
    spent = serializers.ChoiceField(
        choices=WalletBonus.Spent.values,
        required=False,
        help_text="before the subscriber's own money (the default) or after it",
    )
    valid_days = serializers.IntegerField(
        required=False, min_value=1, max_value=3660, help_text="default: for good"
    )


class FreeBody(serializers.Serializer[Any]):
    """Any amount between these."""

    least = Price()
    most = Price()


class TopUpPolicyBody(serializers.Serializer[Any]):
    """What may be put into a wallet, and what is given with it, from an instant on."""

    fixed = serializers.ListField(child=Price(), max_length=50, help_text="amounts offered")
    free = FreeBody(allow_null=True, help_text="any amount between these too; null: none")
    low_balance = Price(
        required=False, allow_null=True, help_text="who has less hears of it: wallet.low"
    )
    bonuses = BonusRuleBody(many=True, required=False)
    effective_from = Instant(required=False, help_text="default: now; never in the past")


class TopUpPolicyAnswer(TopUpPolicyBody):
    version = serializers.IntegerField(help_text="0: nothing was ever said")
    effective_from = Instant(allow_null=True, help_text="null: nothing was ever said")


def _amount(operator: Operator, value: Money | None) -> Decimal | None:
    if value is None:
        return None
    if value.currency.code != operator.currency:
        raise Invalid(f"a wallet is in {operator.currency}")
    amount: Decimal = value.amount
    return amount


def _needed(operator: Operator, value: Money) -> Decimal:
    amount = _amount(operator, value)
    assert amount is not None
    return amount


def _policy(operator: Operator, said: dict[str, Any]) -> Policy:
    free = said["free"]
    policy = Policy(
        fixed=[_needed(operator, one) for one in said["fixed"]],
        free=free is not None,
        low=_amount(operator, said.get("low_balance")),
        rules=[
            Rule(
                at_least=_needed(operator, rule["at_least"]),
                amount=_amount(operator, rule.get("amount")),
                percent=rule.get("percent"),
                cap=_amount(operator, rule.get("cap")),
                spent=rule.get("spent", WalletBonus.Spent.FIRST),
                valid_days=rule.get("valid_days"),
            )
            for rule in said.get("bonuses", ())
        ],
    )
    if free is None:
        return policy
    least, most = _needed(operator, free["least"]), _needed(operator, free["most"])
    return replace(policy, least=least, most=most)


def show_policy(policy: Policy, currency: str) -> dict[str, Any]:
    """A version as it travels."""

    def money(amount: Decimal) -> dict[str, str]:
        return money_to_wire(Money(amount, currency))

    return {
        "version": policy.nr,
        "effective_from": policy.effective_from and to_wire_time(policy.effective_from),
        "fixed": [money(amount) for amount in policy.fixed],
        "free": {"least": money(policy.least), "most": money(policy.most)} if policy.free else None,
        "low_balance": None if policy.low is None else money(policy.low),
        "bonuses": [_show_rule(rule, money) for rule in policy.rules],
    }


def _show_rule(rule: Rule, money: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {"at_least": money(rule.at_least), "spent": rule.spent}
    if rule.amount is not None:
        shown["amount"] = money(rule.amount)
    if rule.percent is not None:
        shown["percent"] = plain(rule.percent)
    if rule.cap is not None:
        shown["cap"] = money(rule.cap)
    if rule.valid_days is not None:
        shown["valid_days"] = rule.valid_days
    return shown


class TopUpPolicyDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_top_up_policy", responses={200: TopUpPolicyAnswer, **refusals()}
    )
    def get(self, request: Request) -> Response:
        """What is offered now."""
        operator = operator_of(request)
        policy = top_up_policies.policy_at(operator.pk, at=clock.now(operator))
        return Response(show_policy(policy, operator.currency))

    @extend_schema(
        operation_id="put_top_up_policy",
        request=TopUpPolicyBody,
        responses={200: TopUpPolicyAnswer, **refusals(413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """A new version; orders keep what was offered when they were made."""
        operator = operator_of(request)
        at = clock.now(operator)
        body = TopUpPolicyBody(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        policy = _policy(operator, body.validated_data)
        made = top_up_policies.put(
            operator,
            policy,
            by=person_of(request),
            at=at,
            effective_from=body.validated_data.get("effective_from", at),
        )
        return Response(show_policy(made, operator.currency))


# Wallets that are filled by themselves ------------------------------------------------------------


class AgreementBody(serializers.Serializer[Any]):
    """What a subscriber agrees to, in the very words that it was shown."""

    threshold = Price(help_text="below it the wallet is filled")
    amount = Price(help_text="that is put in; the threshold at least")
    daily_limit = Price()
    monthly_limit = Price()
    way = Text(max_length=32, help_text="how it is paid")
    method = Text(max_length=255, help_text="the saved method, by the provider's name of it")
    text = Text(max_length=10_000)
    text_version = Text(max_length=64)
    language = Text(max_length=35)
    channel = Text(max_length=32, help_text="by which it was agreed to: portal, app, hotline")


class RunBody(serializers.Serializer[Any]):
    """A fall below the threshold, and what became of it."""

    begun_at = Instant()
    state = serializers.ChoiceField(choices=AutoTopUpRun.State.values)
    order = serializers.CharField(allow_null=True)
    tries = serializers.IntegerField()
    next_at = Instant(allow_null=True)
    reason = serializers.CharField(help_text="what it waits for, or why it failed")


class AgreementAnswer(AgreementBody):
    agreed_at = Instant()
    failures = serializers.IntegerField(help_text="in a row")
    ended_at = Instant(allow_null=True)
    ended_by = serializers.CharField(allow_null=True)
    runs = RunBody(many=True, help_text="the latest first, 20 at most")


class Withdrawal(serializers.Serializer[Any]):
    channel = Text(max_length=32)


def show_agreement(one: AutoTopUp, found: Sequence[AutoTopUpRun]) -> dict[str, Any]:
    """What was agreed to as it travels."""

    def money(amount: Decimal) -> dict[str, str]:
        return money_to_wire(Money(amount, one.currency))

    numbers = keeping.numbers_of(one.subscriber_id, [run.order_id for run in found])
    return {
        **{name: money(getattr(one, name)) for name in ("threshold", "amount")},
        **{name: money(getattr(one, name)) for name in ("daily_limit", "monthly_limit")},
        **{name: getattr(one, name) for name in ("way", "text", "text_version")},
        "method": methods.name_of(one.subscriber_id, one.method),
        "language": one.language,
        "channel": one.channel,
        "agreed_at": to_wire_time(one.agreed_at),
        "failures": one.failures,
        "ended_at": one.ended_at and to_wire_time(one.ended_at),
        "ended_by": one.ended_by or None,
        "runs": [
            {
                "begun_at": to_wire_time(run.begun_at),
                "state": run.state,
                "order": numbers.get(run.order_id or 0),
                "tries": run.tries,
                "next_at": run.next_at and to_wire_time(run.next_at),
                "reason": run.reason,
            }
            for run in found
        ],
    }


def _shown(one: AutoTopUp) -> Response:
    rows = AutoTopUpRun.objects.filter(subscriber_id=one.subscriber_id, agreement_id=one.id)
    return Response(show_agreement(one, list(rows.order_by("-begun_at")[:20])))


class AutoTopUpDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_auto_top_up",
        parameters=[EXTERNAL_ID],
        responses={200: AgreementAnswer, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What a subscriber agreed to last, ended or not, and what came of it."""
        operator = operator_of(request)
        found = agreements.last_of(operator, registry.find(operator, external_id).pk)
        if found is None:
            raise NotFound("the subscriber has agreed to no automatic top-up")
        return _shown(found)

    @extend_schema(
        operation_id="put_auto_top_up",
        parameters=[EXTERNAL_ID],
        request=AgreementBody,
        responses={200: AgreementAnswer, **refusals(404, 413, 415, 422)},
    )
    def put(self, request: Request, external_id: str) -> Response:
        """Keep what a subscriber agrees to, in place of what it agreed to before."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        body = AgreementBody(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        said: dict[str, Any] = {
            name: _needed(operator, value) if isinstance(value, Money) else value
            for name, value in body.validated_data.items()
        }
        saved = methods.chargeable(operator, subscriber.pk, said["method"])
        said["method"] = saved.reference
        made = agreements.agree(operator, subscriber.pk, Terms(**said), at=clock.now(operator))
        return _shown(made)


class WithdrawAutoTopUpDoor(OperatorDoor):
    @extend_schema(
        operation_id="withdraw_auto_top_up",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=Withdrawal,
        responses={200: AgreementAnswer, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Fill the wallet by itself no more; the answer is the receipt. Again is harmless."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        body = Withdrawal(data=request.data)
        body.is_valid(raise_exception=True)
        ended = agreements.withdraw(
            operator,
            subscriber.pk,
            channel=body.validated_data["channel"],
            at=clock.now(operator),
        )
        return _shown(ended)
