"""What is done by a form that stands on another page: in a list, beside what it is about."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from subscriptions.console.deeds import in_words
from subscriptions.console.doors import Visit
from subscriptions.console.pages import Page
from subscriptions.errors import DomainError


def who(visit: Visit) -> str:
    """By whom something is done, as rows of the domain keep it."""
    user = visit.staff.user
    return (user.email or user.phone or str(user.key))[:100]


class Inline(Page):
    """`act` does what the form says and answers in words; then it leads back to its `parent`.

    What is done and its line in the audit are one transaction, but where the domain calls a
    provider (`alone`). A refusal of the domain is told there, with nothing done.
    """

    changes = True
    alone: ClassVar[bool] = False

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        return HttpResponseRedirect(self.back(**kwargs))

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        try:
            with nullcontext() if self.alone else transaction.atomic():
                said = self.act(**kwargs)
                self.visit.note(
                    f"{self.name}.{self.text('do', 30)}",
                    about=request.path,
                    after={"said": said},
                    reason=self.reason(),
                )
        except DomainError as refused:
            messages.error(request, in_words(refused))
        else:
            messages.success(request, said)
        return HttpResponseRedirect(self.back(**kwargs))

    def act(self, **kwargs: Any) -> str:
        raise NotImplementedError

    def back(self, **kwargs: Any) -> str:
        return reverse(f"admin:{self.parent}")

    def text(self, name: str, most: int = 200) -> str:
        return self.request.POST.get(name, "").replace("\0", "").strip()[:most]

    def reason(self) -> str:
        return self.text("reason")

    def number(self, name: str) -> int:
        """A whole number of the form; 0 for what is none, which is nobody's id."""
        said = self.text(name)
        return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0
