"""Families, their members and invites: the only writer of Family, FamilyMember and FamilyInvite.

Nobody becomes a member but by an answer of their own. Locks in one order: the family, its members,
its invites, then buckets. Whatever a charge goes by is changed with the generation of the buckets
that it has locked.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet

from subscriptions import buckets, lifecycle, outbox, phones
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Family, FamilyInvite, FamilyMember, Operator, Subscriber
from subscriptions.outbox import Happening

End, Priority, State = FamilyMember.End, FamilyMember.Priority, FamilyInvite.State
SHARED = (buckets.Kind.ROLLOVER, buckets.Kind.ALLOWANCE, buckets.Kind.BOOSTER)
# Of an organisation; a family has nine.
MOST_DEPARTMENTS = 1000
VALID_FOR = dt.timedelta(days=7)
# Beside as many as there may be members: an invite is told to whoever it is for.
MORE_A_DAY = 20
# No letter or digit that is read as another; 60 bits.
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"


class InFamily(Conflict):
    cause = "in_a_family"


class FamilyFull(Conflict):
    cause = "family_full"


class InviteOver(Conflict):
    cause = "invite_over"


class TooManyInvites(Conflict):
    cause = "too_many"


# Families ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rules:
    """`shared` are kinds of buckets; `kept` thousandths of a unit."""

    name: str
    shared: Sequence[str] = SHARED
    kept: int = 0
    open_to_members: bool = False

    def checked(self) -> Rules:
        """Raises Invalid."""
        if not self.name.strip():
            raise Invalid("a family has a name")
        if not self.shared or set(self.shared) - set(buckets.PREPAID):
            raise Invalid(f"shared is one or more of {', '.join(buckets.PREPAID)}")
        if self.kept < 0:
            raise Invalid("what is kept is not negative")
        return self

    def columns(self) -> dict[str, object]:
        shared = sorted(set(self.shared), key=lambda kind: buckets.PRIORITY[kind])
        return {
            "name": self.name.strip(),
            "shared": ",".join(shared),
            "kept": self.kept,
            "open_to_members": self.open_to_members,
        }


def found(
    operator: Operator, owner: Subscriber, kind: str, rules: Rules, *, at: dt.datetime
) -> Family:
    """Make a family of a main line alone. Raises Invalid, InFamily, SubscriberMerged."""
    rules.checked()
    lifecycle.check_open(owner.pk)
    with transaction.atomic():
        family = Family.objects.create(
            operator=operator, owner=owner, kind=kind, created_at=at, **rules.columns()
        )
        _join(family, owner, owner.name[:60], is_owner=True, at=at)
    return family


def change(family: Family, rules: Rules, *, at: dt.datetime) -> Family:
    """Let other rules hold, for what is charged from now on. Raises Invalid, NotFound."""
    rules.checked()
    with transaction.atomic():
        family = _lock(family.pk)
        Family.objects.filter(pk=family.pk).update(**rules.columns())
        buckets.forget([family.owner_id])
        family.refresh_from_db()
    return family


def dissolve(family: Family, *, at: dt.datetime) -> None:
    """End a family with all its memberships and invites, at once. Again it is ended."""
    with transaction.atomic():
        locked = Family.objects.select_for_update(no_key=True).get(pk=family.pk)
        if locked.dissolved_at is not None:
            return
        for member in _members(locked).select_for_update(no_key=True).order_by("subscriber_id"):
            _end(member, End.DISSOLVED, at=at)
        FamilyInvite.objects.filter(family=locked, state=State.OPEN).update(
            state=State.WITHDRAWN, answered_at=at
        )
        Family.objects.filter(pk=locked.pk).update(dissolved_at=at)


def find(operator: Operator, family_id: int) -> Family:
    """A family of the operator's, dissolved or not. Raises NotFound."""
    family = Family.objects.filter(operator=operator, pk=family_id).select_related("owner").first()
    if family is None:
        raise NotFound("there is no such family")
    return family


def of(subscriber_id: int) -> FamilyMember | None:
    """The membership that a subscriber has now, with its family."""
    rows = FamilyMember.objects.filter(subscriber_id=subscriber_id, until__isnull=True)
    return rows.select_related("family", "family__owner").first()


def _lock(family_id: int) -> Family:
    family = (
        Family.objects.select_for_update(no_key=True)
        .filter(pk=family_id, dissolved_at__isnull=True)
        .first()
    )
    if family is None:
        raise NotFound("the family is dissolved")
    return family


def _members(family: Family) -> QuerySet[FamilyMember]:
    return FamilyMember.objects.filter(family=family, until__isnull=True)


# Invites -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What a member may draw; `cap` in thousandths a month, None without a limit."""

    label: str
    cap: int | None = None
    priority: int = Priority.NORMAL

    def checked(self) -> Terms:
        """Raises Invalid."""
        if not self.label.strip() or len(self.label) > 60:
            raise Invalid("a member has a name of at most 60 characters")
        if self.cap is not None and not 0 <= self.cap < 2**62:
            raise Invalid("a cap is not negative")
        if self.priority not in Priority.values:
            raise Invalid("priority is 1 or 2")
        return self


def invite(
    family: Family,
    terms: Terms,
    *,
    contact: str = "",
    subscriber: Subscriber | None = None,
    at: dt.datetime,
) -> tuple[FamilyInvite, str]:
    """Invite somebody; answers the invite and its code, which nobody is told again.

    Who is a subscriber by the `contact` (a phone number or e-mail address) is told so; whether
    anybody is, the inviter does not learn. Without one it is for whoever the code is passed on to.
    Raises Invalid, FamilyFull, TooManyInvites, NotFound.
    """
    terms.checked()
    contact = contact.strip()[:254]
    if subscriber is None and contact:
        subscriber = _known_by(family.operator_id, contact)
    code = "".join(secrets.choice(_ALPHABET) for _ in range(12))
    with transaction.atomic():
        family = _lock(family.pk)
        if subscriber is not None and subscriber.pk == family.owner_id:
            raise Invalid("the main line is in the family already")
        made = FamilyInvite.objects.filter(family=family)
        today = made.filter(invited_at__gt=at - dt.timedelta(days=1)).count()
        if today >= _most(family) + MORE_A_DAY:
            raise TooManyInvites("too many invites in a day")
        _check_room(family, beside=made.filter(state=State.OPEN, expires_at__gt=at).count())
        row = FamilyInvite.objects.create(
            family=family,
            subscriber=subscriber,
            contact=contact,
            code_hash=_hash(code),
            label=terms.label.strip(),
            cap=terms.cap,
            priority=terms.priority,
            invited_at=at,
            expires_at=at + VALID_FOR,
        )
        if subscriber is not None:
            said = {"family": family.name, "expires_at": row.expires_at.isoformat()}
            key = f"family:invite:{row.pk}"
            outbox.tell([Happening(subscriber.pk, "family.invited", key, at, said)])
    return row, "-".join(code[nr : nr + 4] for nr in (0, 4, 8))


def open_invites(subscriber_id: int, *, at: dt.datetime) -> list[FamilyInvite]:
    """Those that wait for this subscriber's answer."""
    return list(
        FamilyInvite.objects.filter(
            subscriber_id=subscriber_id,
            state=State.OPEN,
            expires_at__gt=at,
            family__dissolved_at__isnull=True,
        )
        .select_related("family")
        .order_by("id")
    )


def by_code(operator_id: int, code: str) -> FamilyInvite:
    """The invite with this code. Raises NotFound."""
    row = FamilyInvite.objects.filter(
        code_hash=_hash(code), family__operator_id=operator_id
    ).select_related("family")
    found = row.first()
    if found is None:
        raise NotFound("there is no invite with this code")
    return found


def of_subscriber(subscriber_id: int, invite_id: int) -> FamilyInvite:
    """An invite that names this subscriber. Raises NotFound."""
    row = FamilyInvite.objects.filter(pk=invite_id, subscriber_id=subscriber_id)
    found = row.select_related("family").first()
    if found is None:
        raise NotFound("there is no such invite")
    return found


def accept(offer: FamilyInvite, subscriber: Subscriber, *, at: dt.datetime) -> FamilyMember:
    """Become a member, by an answer of the subscriber's own; answered again it is the same.

    From this instant on usage falls to the pool where own units end. Raises NotFound where it is
    for another, InviteOver, InFamily, FamilyFull, SubscriberMerged.
    """
    lifecycle.check_open(subscriber.pk)
    with transaction.atomic():
        family, offer = _locked(offer)
        if (
            offer.subscriber_id not in (None, subscriber.pk)
            or subscriber.operator_id != family.operator_id
        ):
            raise NotFound("there is no such invite")
        made = offer.member
        if made is not None and made.subscriber_id == subscriber.pk and made.until is None:
            return made
        _check_open(family, offer, at=at)
        _check_room(family)
        member = _join(
            family, subscriber, offer.label, cap=offer.cap, priority=offer.priority, at=at
        )
        FamilyInvite.objects.filter(pk=offer.pk).update(
            state=State.ACCEPTED, subscriber=subscriber, answered_at=at, member=member
        )
        buckets.open_pool(subscriber.pk, member.pk, at=at)
        said = {"family": family.name, "member": member.label}
        key = f"family:joined:{member.pk}"
        outbox.tell([Happening(family.owner_id, "family.joined", key, at, said)])
    return member


def decline(offer: FamilyInvite, *, at: dt.datetime) -> None:
    """The invited does not want to. Raises InviteOver, NotFound."""
    _settle(offer, State.DECLINED, at=at)


def withdraw(offer: FamilyInvite, *, at: dt.datetime) -> None:
    """The family does not want to any more. Raises InviteOver, NotFound."""
    _settle(offer, State.WITHDRAWN, at=at)


def _settle(offer: FamilyInvite, state: str, *, at: dt.datetime) -> None:
    with transaction.atomic():
        _, offer = _locked(offer)
        if offer.state == state:
            return
        if offer.state != State.OPEN:
            raise InviteOver("the invite has been answered")
        FamilyInvite.objects.filter(pk=offer.pk).update(state=state, answered_at=at)


def _locked(offer: FamilyInvite) -> tuple[Family, FamilyInvite]:
    family = Family.objects.select_for_update(no_key=True).get(pk=offer.family_id)
    locked = FamilyInvite.objects.select_for_update(no_key=True, of=("self",)).select_related(
        "member"
    )
    return family, locked.get(pk=offer.pk)


def _check_open(family: Family, offer: FamilyInvite, *, at: dt.datetime) -> None:
    if offer.state != State.OPEN or family.dissolved_at is not None:
        raise InviteOver("the invite has been answered or taken back")
    if offer.expires_at <= at:
        raise InviteOver("the invite has expired; ask for another")


def _check_room(family: Family, beside: int = 0) -> None:
    """Of a locked family. Raises FamilyFull."""
    most = _most(family)
    members = _members(family).filter(is_owner=False).count()
    if members >= most:
        raise FamilyFull(f"the family has {most} members")
    if members + beside >= most:
        raise FamilyFull(f"with the invites that wait for an answer it would be more than {most}")


def _most(family: Family) -> int:
    return family.MOST_MEMBERS if family.kind == Family.Kind.FAMILY else MOST_DEPARTMENTS


def _join(
    family: Family,
    subscriber: Subscriber,
    label: str,
    *,
    at: dt.datetime,
    is_owner: bool = False,
    cap: int | None = None,
    priority: int = Priority.NORMAL,
) -> FamilyMember:
    """Raises InFamily."""
    try:
        with transaction.atomic():
            return FamilyMember.objects.create(
                family=family,
                subscriber=subscriber,
                label=label,
                is_owner=is_owner,
                cap=cap,
                priority=priority,
                since=at,
            )
    except IntegrityError as error:
        raise InFamily("the subscriber is in a family; one at a time") from error


def _known_by(operator_id: int, contact: str) -> Subscriber | None:
    """The one subscriber of that number or address."""
    if "@" in contact:
        named = Q(email__iexact=contact)
    else:
        named = Q(msisdn__in=phones.forms(contact))
    rows = Subscriber.objects.filter(named, operator_id=operator_id, merged_into__isnull=True)
    matching = list(rows[:2])
    return matching[0] if len(matching) == 1 else None


def _hash(code: str) -> str:
    plain = re.sub(r"[\s-]", "", code).upper()
    return hashlib.sha256(plain.encode()).hexdigest()


# Members -----------------------------------------------------------------------------------------


def members(family: Family) -> list[FamilyMember]:
    """The main line, then the others by when they came."""
    rows = _members(family).select_related("subscriber")
    return list(rows.order_by(F("is_owner").desc(), "since", "id"))


def member(family: Family, member_id: int) -> FamilyMember:
    """A member that still is one. Raises NotFound."""
    row = _members(family).filter(pk=member_id, is_owner=False).select_related("subscriber").first()
    if row is None:
        raise NotFound("there is no such member")
    return row


def change_terms(row: FamilyMember, terms: Terms, *, at: dt.datetime) -> FamilyMember:
    """Let another cap and priority hold, for what is charged from now on. Raises Invalid."""
    terms.checked()
    with transaction.atomic():
        _lock(row.family_id)
        FamilyMember.objects.filter(pk=row.pk, is_owner=False, until__isnull=True).update(
            label=terms.label.strip(), cap=terms.cap, priority=terms.priority
        )
        buckets.forget([row.subscriber_id])
        row.refresh_from_db()
    return row


def show_usage(row: FamilyMember, shows: bool) -> None:
    """Whether the other members see what this one drew of the pool: its own choice."""
    FamilyMember.objects.filter(pk=row.pk, until__isnull=True).update(shows_usage=shows)


def remove(row: FamilyMember, *, how: str = End.REMOVED, at: dt.datetime) -> None:
    """End a membership at once. Again it is ended. Raises Conflict for the main line."""
    if row.is_owner:
        raise Conflict("the main line does not leave its family; dissolve it")
    with transaction.atomic():
        Family.objects.select_for_update(no_key=True).get(pk=row.family_id)
        locked = FamilyMember.objects.select_for_update(no_key=True).get(pk=row.pk)
        if locked.until is None:
            _end(locked, how, at=at)


def end_all(subscriber: Subscriber, *, at: dt.datetime) -> None:
    """End what a subscriber that closes has to do with families, in the caller's transaction."""
    row = of(subscriber.pk)
    if row is not None and row.is_owner:
        dissolve(row.family, at=at)
    elif row is not None:
        remove(row, how=End.LEFT, at=at)


def _end(row: FamilyMember, how: str, *, at: dt.datetime) -> None:
    FamilyMember.objects.filter(pk=row.pk).update(until=max(at, row.since), ended=how)
    if row.is_owner:
        return
    buckets.close_pool(row.subscriber_id, row.pk, at=at)
    if how != End.LEFT:
        said = {"family": row.family.name}
        key = f"family:removed:{row.pk}"
        outbox.tell([Happening(row.subscriber_id, "family.removed", key, at, said)])
