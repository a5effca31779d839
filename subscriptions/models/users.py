"""Who signs in, and what they may see."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models
from django.db.models import F, Q
from django.utils.functional import cached_property

from subscriptions.models.operators import Operator
from subscriptions.models.subscribers import Subscriber


class UserManager(BaseUserManager["User"]):
    """Makes users where no form does: commands and tests."""

    def create_user(self, **fields: Any) -> User:
        password = fields.pop("password", None)
        user = User(**fields)
        user.set_password(password)
        user.save(using=self._db)
        return user


class User(AbstractBaseUser, PermissionsMixin):
    """A person who signs in, by e-mail and password or by phone and code.

    One person is one user, however many operators of this platform they buy from: what they may see
    at each is an `Access`. Written by allauth's forms through subscriptions/users/adapter.py.
    """

    # What it is called outside; e-mail and phone change and may be missing.
    key = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    email = models.EmailField(blank=True, default="", db_index=True)
    phone = models.CharField(max_length=16, blank=True, default="", db_index=True)  # E.164
    phone_verified = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    USERNAME_FIELD = "key"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects = UserManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="user_verified_phone_once",
                fields=["phone"],
                condition=Q(phone_verified=True),
            ),
            models.CheckConstraint(
                name="user_verified_phone_is_one",
                condition=Q(phone_verified=False) | ~Q(phone=""),
            ),
            models.CheckConstraint(
                name="user_closed_is_empty",
                condition=Q(closed_at__isnull=True) | Q(is_active=False, email="", phone=""),
            ),
            models.CheckConstraint(
                name="user_closed_after_created",
                condition=Q(closed_at__isnull=True) | Q(closed_at__gte=F("created_at")),
            ),
        ]

    def __str__(self) -> str:
        return str(self.key)

    @cached_property
    def is_or_was_staff(self) -> bool:
        """Whether they ever worked for an operator, as far as this page is concerned."""
        return self.staff.exists()


class Access(models.Model):
    """That a user may see and use a subscriber's account at an operator.

    One account of an operator to a user. That the subscriber is that operator's is a foreign key of
    both columns. Written only by subscriptions/users/access.py.
    """

    user = models.ForeignKey(User, models.PROTECT, related_name="accesses")
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    subscriber = models.ForeignKey(Subscriber, models.PROTECT, related_name="accesses")
    created_at = models.DateTimeField()

    objects: models.Manager[Access]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "operator"], name="access_once_an_operator"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} {self.subscriber_id}"
