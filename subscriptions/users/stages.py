"""Steps between a password or code and a session."""

from __future__ import annotations

from typing import Any

from allauth.account.stages import EmailVerificationStage


class EmailStage(EmailVerificationStage):  # type: ignore[misc]
    """An e-mail address has to be proved, by those who gave one: a phone is enough to sign in."""

    def handle(self) -> tuple[Any, bool]:
        user = self.login.user
        if user is not None and not user.email and user.phone_verified:
            return None, True
        answer: tuple[Any, bool] = super().handle()
        return answer
