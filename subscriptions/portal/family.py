"""The family or team of one's own: whom one shares with, what each drew, and who may how much."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from subscriptions import balances, buckets
from subscriptions.errors import DomainError
from subscriptions.families import giving, keeping, using
from subscriptions.families.keeping import Rules, Terms
from subscriptions.models import Bucket, Family, FamilyInvite, FamilyMember, Subscriber
from subscriptions.pools import POOL, mirror_of
from subscriptions.portal.doors import Visit, own, show
from subscriptions.units import MAX_UNITS, THOUSANDTHS, from_decimal

_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "千": 10**3, "万": 10**4, "亿": 10**8}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)(K|M|B|千|万|亿)?")
_PAGE = 50


class TokensField(forms.CharField):
    """A number of tokens as people write it, `1,000,000`, `1M` or `100万`; thousandths inside."""

    def __init__(self, **options: Any) -> None:
        widget = forms.TextInput(attrs={"inputmode": "text", "autocomplete": "off"})
        super().__init__(**{"max_length": 24, "widget": widget, **options})

    def clean(self, value: Any) -> Any:
        text = re.sub(r"[\s,，]", "", str(super().clean(value))).upper()
        if not text and not self.required:
            return None
        found = _AMOUNT.fullmatch(text)
        try:
            units = Decimal(found[1]) * _SUFFIXES[found[2] or ""] if found else None
            thousandths = from_decimal(units) if units is not None else None
        except (ValueError, InvalidOperation):
            thousandths = None
        if thousandths is None or thousandths > MAX_UNITS:
            raise forms.ValidationError(
                _("Write a number of tokens, such as 1,000,000 or 100万."), "invalid"
            )
        return thousandths


class TermsForm(forms.Form):
    label = forms.CharField(label=gettext_lazy("Name"), max_length=60)
    cap = TokensField(
        label=gettext_lazy("At most this many tokens a month"),
        help_text=gettext_lazy("Leave it empty for no limit. 1,000,000 is 1M or 100万."),
        required=False,
    )
    first = forms.BooleanField(
        label=gettext_lazy("Comes first: may also use what is kept back"), required=False
    )

    def terms(self) -> Terms:
        said = self.cleaned_data
        priority = keeping.Priority.FIRST if said["first"] else keeping.Priority.NORMAL
        return Terms(said["label"], said["cap"], priority)


class InviteForm(TermsForm):
    contact = forms.CharField(
        label=gettext_lazy("Phone number or e-mail address"),
        help_text=gettext_lazy(
            "If it is known here, its owner is told. In any case you get a code to pass on."
        ),
        max_length=254,
        required=False,
    )
    field_order = ("label", "contact", "cap", "first")


class RulesForm(forms.Form):
    name = forms.CharField(label=gettext_lazy("Name of the family or team"), max_length=100)
    shared = forms.MultipleChoiceField(
        label=gettext_lazy("What members share"),
        choices=[
            (buckets.Kind.ROLLOVER.value, gettext_lazy("Rolled over")),
            (buckets.Kind.GIFT.value, gettext_lazy("Gifts")),
            (buckets.Kind.ALLOWANCE.value, gettext_lazy("The plan's tokens")),
            (buckets.Kind.BOOSTER.value, gettext_lazy("Boosters")),
        ],
        widget=forms.CheckboxSelectMultiple(attrs={"class": "checkbox"}),
    )
    kept = TokensField(
        label=gettext_lazy("Keep this many tokens back"),
        help_text=gettext_lazy("For you and for members who come first."),
        required=False,
    )
    open_to_members = forms.BooleanField(
        label=gettext_lazy("Members see what the others used, if those show it"), required=False
    )

    def rules(self) -> Rules:
        said = self.cleaned_data
        return Rules(said["name"], said["shared"], said["kept"] or 0, said["open_to_members"])


class GiftForm(forms.Form):
    to = forms.ChoiceField(label=gettext_lazy("For whom"))
    units = TokensField(label=gettext_lazy("Tokens"))
    note = forms.CharField(label=gettext_lazy("A few words"), max_length=100, required=False)

    def __init__(self, others: list[FamilyMember], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(str(row.pk), row.label) for row in others]
        self.fields["to"].choices = choices  # type: ignore[attr-defined]


# The page ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A member as the visitor may see it: `used` is None where that is not shown."""

    row: FamilyMember
    used: int | None
    mine: bool

    @property
    def share(self) -> int | None:
        """In percent of the cap."""
        if self.used is None or not self.row.cap:
            return None
        share: int = min(100, 100 * self.used // self.row.cap)
        return share


@require_GET
@own
def family(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Whom one shares with; who is in no family sees invites, and may found one."""
    visit.bring_up()
    me = keeping.of(visit.subscriber.pk)
    if me is None:
        return show(
            request,
            "portal/family_none.html",
            visit,
            offers=keeping.open_invites(visit.subscriber.pk, at=visit.now),
            is_team=visit.subscriber.kind == Subscriber.Kind.ORGANISATION,
            section="family",
        )
    members = keeping.members(me.family)
    page = max(1, min(int(request.GET.get("page", "1") or "1"), 1000)) if _is_number(request) else 1
    shown = members[(page - 1) * _PAGE : page * _PAGE]
    used = using.this_month(visit.operator, shown, at=visit.now)
    return show(
        request,
        "portal/family.html",
        visit,
        me=me,
        family=me.family,
        lines=[_line(me, row, used.get(row.pk, 0)) for row in shown],
        others=len(members) - 1,
        earlier=page - 1 if page > 1 else None,
        later=page + 1 if page * _PAGE < len(members) else None,
        pool=_left_to(me, visit),
        my_used=used.get(me.pk, 0) if me in shown else _used(me, visit),
        invites=_waiting(me.family, visit) if me.is_owner else [],
        most=None if me.family.kind == Family.Kind.ORGANISATION else Family.MOST_MEMBERS,
        section="family",
    )


def _is_number(request: HttpRequest) -> bool:
    said = request.GET.get("page", "1")
    return said.isascii() and said.isdigit() and len(said) < 6


def _line(me: FamilyMember, row: FamilyMember, used: int) -> Line:
    mine = row.pk == me.pk
    seen = me.is_owner or mine or (me.family.open_to_members and row.shows_usage)
    return Line(row, used if seen and not row.is_owner else None, mine)


def _used(me: FamilyMember, visit: Visit) -> int:
    return using.this_month(visit.operator, [me], at=visit.now).get(me.pk, 0)


def _left_to(me: FamilyMember, visit: Visit) -> int:
    """What the visitor may draw now: of a main line, what it shares."""
    if me.is_owner:
        kinds = me.family.shared.split(",")
        rows = Bucket.objects.filter(
            subscriber_id=me.subscriber_id,
            kind__in=kinds,
            valid_from__lte=visit.now,
            valid_until__gt=visit.now,
        )
        return sum((row.granted or 0) - row.used - row.reserved for row in rows)
    balance = balances.balance_of(
        me.subscriber_id, as_of=visit.now, grace=visit.operator.late_grace
    )
    return sum(
        (row.granted or 0) - row.used - row.reserved
        for row in balance.buckets
        if row.kind == POOL and mirror_of(row.grant_key) is None
    )


def _waiting(row: Family, visit: Visit) -> list[FamilyInvite]:
    return list(
        FamilyInvite.objects.filter(
            family=row, state=FamilyInvite.State.OPEN, expires_at__gt=visit.now
        ).order_by("-id")[:_PAGE]
    )


# What the main line does --------------------------------------------------------------------------


def _mine(visit: Visit) -> FamilyMember:
    """The visitor's own membership. Raises Http404."""
    me = keeping.of(visit.subscriber.pk)
    if me is None:
        raise Http404
    return me


def _my_family(visit: Visit) -> Family:
    """The family whose main line the visitor is. Raises Http404."""
    me = _mine(visit)
    if not me.is_owner:
        raise Http404
    return me.family


def _refused(request: HttpRequest, error: DomainError) -> HttpResponse:
    """Back to the page, which says what stood against it."""
    said = {
        "in_a_family": _("You are in a family already. Leave it first."),
        "family_full": _("There is no room for another member."),
        "invite_over": _("This invite has been answered, taken back or has expired."),
        "not_found": _("There is no invite with this code."),
        "too_many": _("Too many invites today. Try again tomorrow."),
        "not_enough": _(
            "You have not so much to give: tokens of the plan and what rolled over can be given,"
            " gifts and boosters cannot."
        ),
        "suspended": _("A line that is suspended neither gives nor gets."),
    }
    messages.error(request, said.get(error.cause, _("That is not possible now.")))
    return redirect("portal_family")


@require_POST
@own
def found(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Become the main line of a family, or an organisation of its team."""
    name = request.POST.get("name", "").strip()[:100] or visit.subscriber.name[:100]
    is_team = visit.subscriber.kind == Subscriber.Kind.ORGANISATION
    kind = Family.Kind.ORGANISATION if is_team else Family.Kind.FAMILY
    try:
        keeping.found(visit.operator, visit.subscriber, kind, Rules(name), at=visit.now)
    except DomainError as error:
        return _refused(request, error)
    messages.success(request, _("Done. Now invite somebody."))
    return redirect("portal_family")


@require_http_methods(["GET", "POST"])
@own
def invite(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Invite somebody; the code is shown on the page that follows, once."""
    row = _my_family(visit)
    form = InviteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            offer, code = keeping.invite(
                row, form.terms(), contact=form.cleaned_data["contact"], at=visit.now
            )
        except DomainError as error:
            return _refused(request, error)
        return show(
            request, "portal/family_code.html", visit, offer=offer, code=code, section="family"
        )
    return show(request, "portal/family_invite.html", visit, form=form, section="family")


@require_POST
@own
def withdraw(request: HttpRequest, visit: Visit, invite_id: int) -> HttpResponse:
    offer = FamilyInvite.objects.filter(family=_my_family(visit), pk=invite_id).first()
    if offer is None:
        raise Http404
    try:
        keeping.withdraw(offer, at=visit.now)
    except DomainError as error:
        return _refused(request, error)
    messages.success(request, _("The invite is taken back."))
    return redirect("portal_family")


@require_http_methods(["GET", "POST"])
@own
def member(request: HttpRequest, visit: Visit, member_id: int) -> HttpResponse:
    """A member's cap and priority, and the way to part."""
    row = _member(_my_family(visit), member_id)
    known = {
        "label": row.label,
        "cap": "" if row.cap is None else f"{row.cap // THOUSANDTHS:,d}",
        "first": row.priority == keeping.Priority.FIRST,
    }
    form = TermsForm(request.POST or None, initial=known)
    if request.method == "POST" and form.is_valid():
        try:
            keeping.change_terms(row, form.terms(), at=visit.now)
        except DomainError as error:
            return _refused(request, error)
        messages.success(request, _("Saved. It counts from now on."))
        return redirect("portal_family")
    used = using.this_month(visit.operator, [row], at=visit.now).get(row.pk, 0)
    return show(
        request,
        "portal/family_member.html",
        visit,
        row=row,
        form=form,
        used=used,
        section="family",
    )


def _member(row: Family, member_id: int) -> FamilyMember:
    try:
        return keeping.member(row, member_id)
    except DomainError:
        raise Http404 from None


@require_POST
@own
def remove(request: HttpRequest, visit: Visit, member_id: int) -> HttpResponse:
    row = _member(_my_family(visit), member_id)
    keeping.remove(row, at=visit.now)
    messages.success(request, _("Removed. From now on they draw nothing of yours."))
    return redirect("portal_family")


@require_http_methods(["GET", "POST"])
@own
def rules(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What is shared, what is kept back, and what members see of each other."""
    row = _my_family(visit)
    known = {
        "name": row.name,
        "shared": row.shared.split(","),
        "kept": f"{row.kept // THOUSANDTHS:,d}" if row.kept else "",
        "open_to_members": row.open_to_members,
    }
    form = RulesForm(request.POST or None, initial=known)
    if request.method == "POST" and form.is_valid():
        try:
            keeping.change(row, form.rules(), at=visit.now)
        except DomainError as error:
            return _refused(request, error)
        messages.success(request, _("Saved. It counts from now on."))
        return redirect("portal_family")
    return show(request, "portal/family_rules.html", visit, form=form, section="family")


@require_POST
@own
def dissolve(request: HttpRequest, visit: Visit) -> HttpResponse:
    keeping.dissolve(_my_family(visit), at=visit.now)
    messages.success(request, _("Dissolved. Nobody draws your tokens any more."))
    return redirect("portal_family")


# What a member does -------------------------------------------------------------------------------


@require_POST
@own
def accept(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Accept an invite: one for the visitor by its number, any by its code."""
    try:
        keeping.accept(_offer(request, visit), visit.subscriber, at=visit.now)
    except DomainError as error:
        return _refused(request, error)
    messages.success(
        request, _("Welcome. When your own tokens are used up, the family's are drawn.")
    )
    return redirect("portal_family")


@require_POST
@own
def decline(request: HttpRequest, visit: Visit) -> HttpResponse:
    number = _number(request)
    if number is None:
        raise Http404
    try:
        keeping.decline(keeping.of_subscriber(visit.subscriber.pk, number), at=visit.now)
    except DomainError as error:
        return _refused(request, error)
    messages.success(request, _("Declined. Nothing changes."))
    return redirect("portal_family")


def _offer(request: HttpRequest, visit: Visit) -> FamilyInvite:
    number = _number(request)
    if number is not None:
        return keeping.of_subscriber(visit.subscriber.pk, number)
    return keeping.by_code(visit.operator.pk, request.POST.get("code", "")[:40])


def _number(request: HttpRequest) -> int | None:
    """Of the invite that is answered, where it was sent."""
    number = request.POST.get("invite", "")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else None


@require_POST
@own
def shown(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Whether the others see what one used: one's own choice."""
    keeping.show_usage(_mine(visit), request.POST.get("shown") == "yes")
    messages.success(request, _("Saved. It counts from now on."))
    return redirect("portal_family")


@require_POST
@own
def leave(request: HttpRequest, visit: Visit) -> HttpResponse:
    me = _mine(visit)
    if me.is_owner:
        raise Http404
    keeping.remove(me, how=keeping.End.LEFT, at=visit.now)
    messages.success(request, _("You have left. From now on only your own tokens are drawn."))
    return redirect("portal_family")


@require_http_methods(["GET", "POST"])
@own
def gift(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Give another of the family some of one's own tokens, once however often it is sent."""
    me = _mine(visit)
    others = [row for row in keeping.members(me.family) if row.pk != me.pk]
    form = GiftForm(others, request.POST or None)
    if request.method == "POST" and form.is_valid():
        said = form.cleaned_data
        [receiver] = [row for row in others if str(row.pk) == said["to"]]
        once = re.sub(r"[^A-Za-z0-9]", "", request.POST.get("once", ""))[:40] or uuid.uuid4().hex
        try:
            giving.give(
                me.family,
                me,
                receiver,
                said["units"],
                key=f"portal-{once}",
                note=said["note"],
                at=visit.now,
            )
        except DomainError as error:
            return _refused(request, error)
        messages.success(request, _("Given. They are used first, and stay valid as long."))
        return redirect("portal_family")
    return show(
        request,
        "portal/family_gift.html",
        visit,
        form=form,
        givable=_givable(me, visit),
        once=request.POST.get("once") or uuid.uuid4().hex,
        section="family",
    )


def _givable(me: FamilyMember, visit: Visit) -> int:
    visit.bring_up()
    rows = Bucket.objects.filter(
        subscriber_id=me.subscriber_id,
        kind__in=buckets.GIVABLE,
        valid_from__lte=visit.now,
        valid_until__gt=visit.now,
    )
    return sum((row.granted or 0) - row.used - row.reserved for row in rows)
