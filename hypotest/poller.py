"""The settings side of the leader: fetch, validate, publish."""

from __future__ import annotations

import time

from hypotest import control, log, validation
from hypotest.errors import SettingsError
from hypotest.publisher import Publisher
from hypotest.transport import Transport

_MAX_PROBLEMS_SHOWN = 5
_TELL_AGAIN = 3600.0  # s, where the settings are the same, and their leader is a new one


class Poller:
    """Keeps the snapshot equal to the server's settings.

    Attributes:
        error: what went wrong with the last poll; "" when it was answered.
    """

    def __init__(self, transport: Transport, publisher: Publisher, page: control.ControlPage) -> None:
        self._transport = transport
        self._publisher = publisher
        self._page = page
        self._etag: str | None = None
        self._verdicts: validation.Verdicts = {}
        self.error = ""

    def poll_once(self) -> bool:
        """Fetches the settings and publishes them if they changed.

        Returns:
            Whether a new generation was published.

        Raises:
            TransportError: the server did not answer as it should. The settings in force stay.
        """
        words = self._page.words
        self._page.add(control.POLLS)
        stays = "the last good ones stay in force"
        if not self._publisher.in_force():
            stays = "there are none: all is control"
            self._etag = None  # deleted or damaged: unchanged settings are not enough
        fetched = self._transport.fetch_settings(self._etag)
        if fetched is None:
            self.error = ""  # what it had in between and we refused is gone again
            words[control.SETTINGS_TIME] = int(time.time())
            return False
        body, etag = fetched
        try:
            document = validation.parse_document(body, self._verdicts)
        except SettingsError as error:
            # Not remembered by its ETag: asked for again in full until it is mended.
            log.limited(
                log.ERROR,
                "settings",
                "settings refused, %s: %s",
                stays,
                error,
                turn=self._page.turn,
            )
            self.error = f"settings refused: {error}"
            return False
        self.error = ""
        try:
            published = self._publisher.publish(document.records)
        except OSError as error:
            log.limited(
                log.ERROR,
                "settings",
                "settings cannot be written, %s: %s",
                stays,
                error,
                turn=self._page.turn,
            )
            self.error = f"settings cannot be written: {error}"
            return False
        self._etag, self._verdicts = etag, document.verdicts
        words[control.SETTINGS_TIME] = int(time.time())
        if published:
            unusable = len({problem.experiment for problem in document.problems if problem.unusable})
            log.line(
                log.WARNING if unusable or not document.records else log.INFO,
                "settings: generation %d, %d experiments%s",
                published,
                len(document.records),
                f", {unusable} of them unusable: control for everybody" if unusable else "",
            )
        if document.problems and (published or self._page.turn("problems", _TELL_AGAIN)):
            self._report(document.problems)
        return bool(published)

    def _report(self, problems: list[validation.Problem]) -> None:
        for problem in problems[:_MAX_PROBLEMS_SHOWN]:
            log.line(log.WARNING, "settings: %s", problem)
        if len(problems) > _MAX_PROBLEMS_SHOWN:
            more = len(problems) - _MAX_PROBLEMS_SHOWN
            log.line(log.WARNING, "settings: %d more problems; `hypotest check` lists them all", more)
