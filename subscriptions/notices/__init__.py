"""Notices to subscribers: what happened, told by e-mail and text message, each once.

`kinds` says what is told and what cannot be declined, `preferences` what who declined, `queue` what
is to be sent and what became of it, `wording` writes it in the subscriber's language, `sending`
hands it to Django's e-mail backend or to an SMS backend (`sms`).
"""
