"""Signing in by password, the two ways to sign up, and a passkey."""

from __future__ import annotations

from typing import Any

from allauth.account.fields import PhoneField as AllauthPhoneField
from allauth.account.forms import LoginForm, SignupForm
from allauth.mfa.webauthn.forms import AddWebAuthnForm
from django import forms
from django.core.validators import RegexValidator
from django.utils.translation import gettext_lazy as _


class PhoneField(AllauthPhoneField):  # type: ignore[misc]
    """A phone number, kept in E.164; a Chinese one may be written without +86."""

    e164 = RegexValidator(r"^\+[1-9]\d{5,14}$", _("This is no phone number."), "invalid_phone")

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **{
                "validators": [],
                "label": _("Phone number"),
                "widget": forms.TextInput(
                    attrs={"type": "tel", "autocomplete": "tel", "inputmode": "tel"}
                ),
                **options,
            }
        )

    def clean(self, value: Any) -> str:
        phone = str(super().clean(value))
        if phone:
            self.e164(phone)
        return phone


class PasswordForm(LoginForm):  # type: ignore[misc]
    """allauth's, whose label for either name is that of the page."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["login"].label = _("Phone number or e-mail")


class EmailSignupForm(SignupForm):  # type: ignore[misc]
    """E-mail and password; the address is proved by a code."""

    def _get_signup_fields(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"email": {"required": True}, "password1": {"required": True}}


class PhoneSignupForm(SignupForm):  # type: ignore[misc]
    """A phone number, proved by a code; a password can be set later."""

    def _get_signup_fields(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"phone": {"required": True}}


class PasskeyForm(AddWebAuthnForm):  # type: ignore[misc]
    """allauth's, whose name of the passkey has a label in English only."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["name"].label = _("Name")
