"""Notices on their way out, one after another, by one process for each channel at a time."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.mail.backends.base import BaseEmailBackend

from subscriptions import advisory
from subscriptions.advisory import Lock
from subscriptions.models import Channel, NoticePolicy, Operator
from subscriptions.notices import policies, preferences, queue, sms, wording
from subscriptions.notices.kinds import REQUIRED
from subscriptions.notices.queue import Due
from subscriptions.webhooks.signing import message_id

_CHUNK = 200
# So many in a row that fail are the backend's fault: the others wait for the next bell.
_GIVE_WAY = 3

Send = Callable[[Due, Operator], None]


def send_due(channel: str, *, now: Callable[[], dt.datetime], seconds: float = 20.0) -> int:
    """Send a channel's notices that are due, for about so long; answers how many went out.

    Where another process is at it, nothing is done. `now` is the wall's time.
    """
    with advisory.alone(Lock.NOTICES, list(Channel.values).index(channel)) as ours:
        if not ours:
            return 0
        if channel == Channel.SMS:
            return _Turn(channel, _by_sms(sms.backend()), now).run(seconds)
        with get_connection() as mail:
            return _Turn(channel, _by_email(mail), now).run(seconds)


class _Turn:
    def __init__(self, channel: str, send: Send, now: Callable[[], dt.datetime]) -> None:
        self._channel, self._send, self._now = channel, send, now
        self._operators: dict[int, tuple[Operator, NoticePolicy]] = {}

    def run(self, seconds: float) -> int:
        until = time.monotonic() + seconds
        went, bad = 0, 0
        last: Due | None = None
        while True:
            chunk = queue.due(self._channel, at=self._now(), after=last, limit=_CHUNK)
            for one in chunk:
                if bad >= _GIVE_WAY or time.monotonic() > until:
                    return went
                last = one
                if not self._is_to_be_sent(one):
                    continue
                try:
                    self._send(one, self._of(one)[0])
                except Exception as error:  # of a backend: it may raise what it likes
                    queue.failed(one, f"{type(error).__name__}: {error}")
                    bad += 1
                else:
                    queue.sent(one)
                    went, bad = went + 1, 0
            if len(chunk) < _CHUNK:
                return went

    def _of(self, one: Due) -> tuple[Operator, NoticePolicy]:
        if one.operator_id not in self._operators:
            operator = Operator.objects.get(pk=one.operator_id)
            self._operators[one.operator_id] = (operator, policies.of_operator(operator))
        return self._operators[one.operator_id]

    def _is_to_be_sent(self, one: Due) -> bool:
        if one.declined:
            queue.dropped(one, "the subscriber wants none of this kind")
            return False
        if not one.address:
            queue.dropped(one, "the subscriber has no address any more")
            return False
        if one.channel == Channel.SMS and one.kind not in REQUIRED:
            operator, policy = self._of(one)
            loud = policies.loud_again(policy, ZoneInfo(operator.time_zone), one.at)
            if loud > one.at:
                queue.put_off(one, until=loud)
                return False
        return True


def _by_sms(backend: sms.Backend) -> Send:
    def send(one: Due, operator: Operator) -> None:
        words = wording.say(one.kind, one.payload, language=one.language, operator=operator)
        backend.send(one.address, words.short, key_of(one))

    return send


def _by_email(mail: BaseEmailBackend) -> Send:
    def send(one: Due, operator: Operator) -> None:
        link, headers = "", {"Message-ID": f"<{key_of(one)}@{settings.NOTICE_DOMAIN}>"}
        if one.kind not in REQUIRED:
            token = preferences.token(one.subscriber_id, one.kind)
            link = f"{settings.PUBLIC_URL.rstrip('/')}/notices/decline/{token}"
            # RFC 8058: mail programs show a button, and POST when it is pressed.
            headers["List-Unsubscribe"] = f"<{link}>"
            headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        words = wording.say(
            one.kind, one.payload, language=one.language, operator=operator, link=link
        )
        message = EmailMultiAlternatives(
            words.subject, words.body, to=[one.address], headers=headers, connection=mail
        )
        if not message.send():
            raise RuntimeError("the backend took nothing")

    return send


def key_of(one: Due) -> str:
    """The same whenever this notice is sent."""
    return f"{message_id(one.subscriber_id, one.event_key)}-{one.channel}"
