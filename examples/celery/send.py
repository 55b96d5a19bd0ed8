"""Hands a newsletter to the workers: python send.py READERS. Every other reader is German, every third one clicks."""

from __future__ import annotations

import sys

from tasks import record_click, send_mail

for number in range(int(sys.argv[1])):
    reader = f"reader-{number}"
    mail = send_mail.si(reader, "DE" if number % 2 else "FR")
    if number % 3 == 0:
        mail |= record_click.si(reader)  # once it has the mail
    mail.delay()
