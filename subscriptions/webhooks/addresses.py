"""Where a webhook may go: to public addresses by TLS, and to what WEBHOOK_ALLOWED names.

A name is looked up once for each call, every address that it has must be allowed, and the call goes
to the address that was checked: a name that answers differently a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings

from subscriptions.errors import Invalid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Public by number, but what a cloud tells its own guests: Azure's, Oracle's.
_CLOUDS_OWN = {ipaddress.ip_address("168.63.129.16"), ipaddress.ip_address("192.0.0.192")}
# They carry an address of IPv4 on to wherever it is.
_TRANSLATED = tuple(
    ipaddress.ip_network(network)
    for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
)


class Forbidden(Invalid):
    """An address that webhooks may not be sent to."""

    cause = "forbidden_address"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be called, if its host's addresses may."""

    host: str
    port: int
    tls: bool
    trusted: bool  # WEBHOOK_ALLOWED names the host


def read(url: str) -> Target:
    """The target of a URL. Raises Forbidden for what can be seen without a look-up."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise Forbidden("this is not a URL") from error
    if not url.isascii() or any(letter <= " " or letter == "\x7f" for letter in url):
        raise Forbidden("a URL is plain ASCII without blanks")
    if parts.scheme not in ("https", "http") or not host:
        raise Forbidden("a URL that begins with https://")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise Forbidden("a URL without user, password and fragment")
    tls = parts.scheme == "https"
    port = port or (443 if tls else 80)
    literal = _literal(host)
    trusted = host in _hosts() or (literal is not None and _listed(literal))
    if not trusted:
        if not tls:
            raise Forbidden("only https: what is sent is your customers' business")
        if port not in settings.WEBHOOK_PORTS:
            raise Forbidden(f"port {port} is not allowed")
        if literal is not None and not _public(literal):
            raise Forbidden(f"{host} is not a public address")
    return Target(host, port, tls, trusted)


def look_up(target: Target) -> str:
    """The address to connect to. Raises Forbidden, OSError where the name has none."""
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not target.trusted:
        for text in addresses:
            # A scope (`fe80::1%eth0`) is only of link-local ones.
            address = ipaddress.ip_address(text.partition("%")[0])
            if not (_public(address) or _listed(address)):
                raise Forbidden(f"{target.host} is at an address that is not public")
    return addresses[0]


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # 127.1, 0x7f000001 and 2130706433 are addresses to the system's look-up.
        return ipaddress.ip_address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _public(address.ipv4_mapped)
        if any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast and address not in _CLOUDS_OWN


def _hosts() -> set[str]:
    return {entry for entry in settings.WEBHOOK_ALLOWED if _network(entry) is None}


def _listed(address: Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in _networks())


def _networks() -> Iterator[Network]:
    for entry in settings.WEBHOOK_ALLOWED:
        network = _network(entry)
        if network is not None:
            yield network


def _network(entry: str) -> Network | None:
    try:
        return ipaddress.ip_network(entry)
    except ValueError:
        return None
