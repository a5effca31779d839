"""Codes of vouchers: pure.

A code is 15 letters and digits from the system's random source and one that checks them, read as
`XXXX-XXXX-XXXX-XXXX`: 74 bits, which nobody guesses. There is no `0 1 I L O` among them, so that
nothing has to be told apart. 31 is prime: the check finds each wrong sign and each pair that
changed places.

A code is kept as a hash whose key follows from SECRET_KEY, with its operator: whoever has the table
alone cannot try codes against it, and the same code at another operator is another hash.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
LENGTH = 16
_VALUE = {sign: value for value, sign in enumerate(ALPHABET)}
_BASE = len(ALPHABET)


class WrongKey(Exception):
    """It opens nothing that was sealed for this batch."""


def new() -> str:
    """A code that was never there before, as far as 74 bits go."""
    value, signs = secrets.randbelow(_BASE ** (LENGTH - 1)), []
    for _ in range(LENGTH - 1):
        value, sign = divmod(value, _BASE)
        signs.append(ALPHABET[sign])
    body = "".join(signs)
    return body + check_sign(body)


def check_sign(body: str) -> str:
    """The last sign: with it the weighted sum of all is 0, by weights that are all different."""
    total = sum(place * _VALUE[sign] for place, sign in enumerate(body, 2))
    return ALPHABET[-total % _BASE]


def read(typed: str) -> str | None:
    """A code as people type it, without blanks and hyphens; None where it cannot be one."""
    code = "".join(typed.split()).replace("-", "").upper()
    if len(code) != LENGTH or any(sign not in _VALUE for sign in code):
        return None
    return code if check_sign(code[:-1]) == code[-1] else None


def shown(code: str) -> str:
    """In groups of four, as it is printed."""
    return "-".join(code[place : place + 4] for place in range(0, LENGTH, 4))


# Kept --------------------------------------------------------------------------------------------


def digest(operator_id: int, code: str) -> bytes:
    """What is kept of a code."""
    return _digest(str(settings.SECRET_KEY), operator_id, code)


def digests(operator_id: int, code: str) -> list[bytes]:
    """What may be kept of a code: also by keys that SECRET_KEY_FALLBACKS still names."""
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return [_digest(str(key), operator_id, code) for key in keys]


def _digest(secret_key: str, operator_id: int, code: str) -> bytes:
    pepper = hmac.digest(secret_key.encode(), b"token-billing: codes of vouchers", "sha256")
    return hmac.digest(pepper, f"{operator_id}:{code}".encode(), hashlib.sha256)


# Sealed until they are shown ---------------------------------------------------------------------


def new_key() -> tuple[str, bytes]:
    """A key for who orders a batch, and its public half, which seals what only that key opens."""
    private = X25519PrivateKey.generate()
    told = base64.urlsafe_b64encode(private.private_bytes_raw()).decode().rstrip("=")
    return told, private.public_key().public_bytes_raw()


def seal(public_key: bytes, codes: Sequence[str]) -> bytes:
    """Codes that cannot be read here any more."""
    once = X25519PrivateKey.generate()
    mine = once.public_key().public_bytes_raw()
    shared = once.exchange(X25519PublicKey.from_public_bytes(public_key))
    box = ChaCha20Poly1305(_derived(shared, mine + public_key))
    # The key is used once: its nonce need not be random.
    return mine + box.encrypt(bytes(12), "".join(codes).encode(), None)


def unseal(key: str, sealed: bytes) -> list[str]:
    """Raises WrongKey."""
    try:
        raw = base64.b64decode(key + "=" * (-len(key) % 4), altchars=b"-_", validate=True)
        private = X25519PrivateKey.from_private_bytes(raw)
        mine = sealed[:32]
        shared = private.exchange(X25519PublicKey.from_public_bytes(mine))
        box = ChaCha20Poly1305(_derived(shared, mine + private.public_key().public_bytes_raw()))
        text = box.decrypt(bytes(12), sealed[32:], None).decode()
    except (ValueError, InvalidTag) as error:
        raise WrongKey("this key opens nothing here") from error
    return [text[place : place + LENGTH] for place in range(0, len(text), LENGTH)]


def _derived(shared: bytes, both: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"token-billing: sealed codes" + both).derive(shared)
