"""Who works for which operator, and from where. The only writer of Staff and StaffNetwork."""

from __future__ import annotations

import datetime as dt
import ipaddress

from allauth.account.models import EmailAddress
from django.db import transaction

from subscriptions.errors import Conflict, Invalid
from subscriptions.models import Operator, Staff, StaffNetwork, User


def serving(user: User) -> list[Staff]:
    """Where the user works now, the longest first, with user and operator."""
    rows = Staff.objects.filter(user=user, ended_at__isnull=True)
    return list(rows.select_related("user", "operator").order_by("id"))


@transaction.atomic
def appoint(user: User, operator: Operator, role: str, *, at: dt.datetime) -> Staff:
    """Let a user work for the operator in this role, which ends the one held before."""
    User.objects.select_for_update().get(pk=user.pk)
    held = Staff.objects.filter(user=user, operator=operator, ended_at__isnull=True).first()
    if held is not None:
        if held.role == role:
            return held
        dismiss(held, at=at)
    return Staff.objects.create(user=user, operator=operator, role=role, created_at=at)


def dismiss(staff: Staff, *, at: dt.datetime) -> None:
    """End it: the next page they open is refused. May be repeated."""
    Staff.objects.filter(pk=staff.pk, ended_at__isnull=True).update(ended_at=at)


@transaction.atomic
def engage(email: str, operator: Operator, role: str, *, password: str, at: dt.datetime) -> Staff:
    """Appoint whoever has this address; somebody new gets an account with this password.

    Raises Conflict where the address is somebody's who never proved it.
    """
    known = EmailAddress.objects.filter(email__iexact=email).select_related("user").first()
    if known is not None:
        if not known.verified:
            raise Conflict("this e-mail address was never confirmed by whoever signed up with it")
        return appoint(known.user, operator, role, at=at)
    user = User.objects.create_user(email=email.lower(), password=password, created_at=at)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    return appoint(user, operator, role, at=at)


def allow(operator: Operator, network: str, *, note: str = "", at: dt.datetime) -> StaffNetwork:
    """Let staff work from this address or network too; once one is listed, from nowhere else."""
    try:
        normal = str(ipaddress.ip_network(network.strip(), strict=False))
    except ValueError as error:
        raise Invalid(f"{network} is no address and no network") from error
    row, _ = StaffNetwork.objects.get_or_create(
        operator=operator, network=normal, defaults={"note": note, "created_at": at}
    )
    return row


def forbid(operator: Operator, network_id: int) -> None:
    StaffNetwork.objects.filter(operator=operator, pk=network_id).delete()


def may_come_from(operator: Operator, address: str | None) -> bool:
    """Whether the operator's staff may work from this address."""
    networks = list(
        StaffNetwork.objects.filter(operator=operator).values_list("network", flat=True)
    )
    if not networks:
        return True
    if address is None:
        return False
    seen = ipaddress.ip_address(address)
    if isinstance(seen, ipaddress.IPv6Address) and seen.ipv4_mapped:
        seen = seen.ipv4_mapped
    return any(seen in ipaddress.ip_network(network) for network in networks)
