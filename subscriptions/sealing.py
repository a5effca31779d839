"""Secrets of others that we have to say again: sealed with a key that follows from SECRET_KEY.

Django's SECRET_KEY_FALLBACKS open what an earlier key has sealed; `again` seals it with today's.
"""

from __future__ import annotations

import base64
import functools

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


class Unreadable(Exception):
    """No key of ours has sealed this."""


def seal(secret: str) -> str:
    return _keys().encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """Raises Unreadable."""
    try:
        return _keys().decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise Unreadable("sealed by a SECRET_KEY that is not known here") from error


def again(sealed: str) -> str:
    """The same, sealed with today's key. Raises Unreadable."""
    try:
        return _keys().rotate(sealed.encode()).decode()
    except InvalidToken as error:
        raise Unreadable("sealed by a SECRET_KEY that is not known here") from error


def _keys() -> MultiFernet:
    return _of((str(settings.SECRET_KEY), *map(str, settings.SECRET_KEY_FALLBACKS)))


@functools.lru_cache(maxsize=1)
def _of(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([_key(key) for key in keys])


def _key(secret_key: str) -> Fernet:
    derived = HKDF(SHA256(), 32, salt=None, info=b"token-billing: secrets of providers")
    return Fernet(base64.urlsafe_b64encode(derived.derive(secret_key.encode())))
