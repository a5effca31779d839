"""What allauth asks of the platform: phone numbers, text messages, where to go, second factors."""

from __future__ import annotations

import uuid
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core import context
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from django.http import HttpRequest
from django.utils.translation import gettext as _

from subscriptions import clock
from subscriptions.models import User
from subscriptions.notices import sms


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    def new_user(self, request: HttpRequest) -> User:
        return User(created_at=clock.wall())

    def get_login_stages(self) -> list[str]:
        own = "subscriptions.users.stages.EmailStage"
        stages: list[str] = super().get_login_stages()
        return [own if stage.endswith(".EmailVerificationStage") else stage for stage in stages]

    # Phone numbers ------------------------------------------------------------------------------

    def clean_phone(self, phone: str) -> str:
        """`138 0013 8000` is what people write in China for `+8613800138000`."""
        bare = phone.replace("(", "").replace(")", "").removeprefix("00")
        if bare.startswith("+"):
            return bare
        if len(bare) == 11 and bare.startswith("1"):
            return f"+86{bare}"
        return f"+{bare}" if phone.startswith("00") else bare

    def phone_form_field(self, **options: Any) -> Any:
        from subscriptions.users.forms import PhoneField

        return PhoneField(**options)

    def get_phone(self, user: User) -> tuple[str, bool] | None:
        return (user.phone, user.phone_verified) if user.phone else None

    def set_phone(self, user: User, phone: str, verified: bool) -> None:
        user.phone, user.phone_verified = phone, verified
        user.save(update_fields=["phone", "phone_verified"])

    def set_phone_verified(self, user: User, phone: str) -> None:
        self.set_phone(user, phone, verified=True)

    def get_user_by_phone(self, phone: str) -> User | None:
        return User.objects.filter(phone=phone).order_by("-phone_verified", "pk").first()

    # Text messages ------------------------------------------------------------------------------

    def send_verification_code_sms(self, user: User, phone: str, code: str, **more: Any) -> None:
        self._text(phone, _("Your code is %(code)s. Tell it to nobody.") % {"code": code})

    def send_account_already_exists_sms(self, phone: str) -> None:
        self._text(phone, _("You have an account with this number already: sign in with a code."))

    def send_unknown_account_sms(self, phone: str, **more: Any) -> None:
        self._text(phone, _("There is no account with this number yet: sign up first."))

    def _text(self, phone: str, text: str) -> None:
        # Each is a message of its own: what is asked for again has another code.
        sms.backend().send(phone, text, uuid.uuid4().hex)


class FactorsAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    def is_mfa_enabled(self, user: User, types: list[str] | None = None) -> bool:
        """Whether the user has a second factor of these types.

        A page asks for one type after the other: they are read once. What changes them does not
        ask by GET.
        """
        request = context.request
        if user.is_anonymous or request is None or request.method not in ("GET", "HEAD"):
            return bool(super().is_mfa_enabled(user, types))
        known = request.__dict__.setdefault("factors_of", {})
        if user.pk not in known:
            found = Authenticator.objects.filter(user_id=user.pk)
            known[user.pk] = set(found.values_list("type", flat=True))
        return bool(known[user.pk] if types is None else known[user.pk].intersection(types))
