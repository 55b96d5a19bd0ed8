"""The experiments file as it changes: the last good version, whatever happens to the file."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeAlias

from hypotest.log import escaped
from hypotest.server.experiments import ExperimentsError, Settings, load, make_settings

if TYPE_CHECKING:
    from pathlib import Path

CHECK_INTERVAL = 0.2  # seconds
MAX_FILE = 64 * 1024 * 1024

_Signature: TypeAlias = "tuple[int, int, int, int] | None"

_log = logging.getLogger("hypotest.server")


class ExperimentsFile:
    """Watches a file by `stat`; replaced by rename or written in place, both are noticed.

    A file that is being written in place can look whole when it is half there: it is read only once it has
    stood still from one check to the next. One that was renamed into place (a new inode) is read at once.

    Attributes:
        settings: the last good version.
        error: why the file as it is now is not in use, or None.
        reads: how often the file was read; goes up after `settings` or `error` was set.
    """

    def __init__(self, path: Path | None) -> None:
        """Takes the path of the file; None serves no experiments."""
        self.path = path
        self.settings: Settings = make_settings({})
        self.error: str | None = None
        self.reads = 0
        self._loaded: _Signature = None
        self._seen: _Signature = None

    def start(self) -> None:
        """Reads the file for the first time.

        Raises:
            ExperimentsError: there is no good version to fall back on.
        """
        if self.path is not None:
            self._loaded = self._seen = self._signature()
            self.settings = self._load(self.path)
            self.reads += 1
            _log.info("experiments: %s in use", len(self.settings.tests))
            self._log_warnings()

    def check_once(self) -> None:
        """Reads the file if it changed and stands still. Never raises; one log line per change."""
        if self.path is None:
            return
        now, before = self._signature(), self._seen
        self._seen = now
        if now == self._loaded or not (now == before or _is_new_file(now, before)):
            return
        self._loaded = now
        try:
            settings = self._load(self.path)
        except ExperimentsError as error:
            _log.error("experiments: %s is broken, the last good version stays: %s", self.path, escaped(str(error)))
            self.error = str(error)  # last: who sees it finds the line in the log
        else:
            changed, self.settings, self.error = settings.etag != self.settings.etag, settings, None
            _log.info("experiments: %s in use%s", len(settings.tests), "" if changed else ", none changed")
            self._log_warnings()
        self.reads += 1

    async def watch(self) -> None:
        """Checks for ever, outside the event loop's thread: a big file takes a while to read."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            try:
                await asyncio.to_thread(self.check_once)
            except Exception:  # noqa: BLE001 - a thread pool that is gone, a bug: the next check may do better
                _log.exception("experiments: the check failed")

    def _signature(self) -> _Signature:
        if self.path is None:
            return None
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    @staticmethod
    def _load(path: Path) -> Settings:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
            if len(data) > MAX_FILE:
                raise ExperimentsError(f"it is over {MAX_FILE} bytes")
            return load(data.decode("utf-8-sig"), is_json=path.suffix.lower() == ".json")
        except OSError as error:
            raise ExperimentsError(error.strerror or str(error)) from None
        except UnicodeDecodeError as error:
            raise ExperimentsError(f"it is not UTF-8: {error}") from None

    def _log_warnings(self) -> None:
        for warning in self.settings.warnings:
            _log.warning("experiments: %s", escaped(warning))


def _is_new_file(now: _Signature, before: _Signature) -> bool:
    return now is not None and before is not None and now[:2] != before[:2]
