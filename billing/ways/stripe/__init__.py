"""Stripe: cards, Alipay and WeChat Pay, by the `stripe` library alone."""

from billing.ways.stripe.partner import StripePartner

__all__ = ["StripePartner"]
