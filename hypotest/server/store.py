"""The events, in one SQLite file.

| table | column | |
|---|---|---|
| accounts | id, key | key = hash of a token: the token itself is never on disk |
| | duplicates | events that were sent again and not stored again |
| events | seq | order of arrival |
| | account | events of one token are invisible to another |
| | event_id | unique per account; null for client 1.0.9, whose events cannot be told from their resends |
| | type, time | visit, goal or match_user_visitor; UTC, `2024-12-31 23:59:59.123456`, so text order is time order |
| | user_id, visitor_id | null where absent |
| | name, variant, value | test_name and variant of a visit; goal_name and goal_value of a goal |
| | error, tags, context | ht_sdk_error; tags_name_value and context as JSON |

WAL with synchronous=NORMAL: a commit is in the page cache when `add` returns, so an acknowledged event survives
SIGKILL of the server; a power cut may lose the last ones, never the file. One thread writes; readers open
connections of their own and see the last commit.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hypotest.errors import StorageError
from hypotest.server.batch import TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hypotest.server.batch import Row

APPLICATION_ID = 0x48795465  # "HyTe": tells our files from other SQLite files
FORMAT = 1
PAGE_SIZE = 16384  # a sixth faster than 4096 at inserts
CHECKPOINT_PAGES = 2048  # 32 MiB of log between the two syncs of a checkpoint
BUSY_TIMEOUT = 5.0

COLUMNS = (
    "account", "event_id", "type", "time", "user_id", "visitor_id",
    "name", "variant", "value", "error", "tags", "context",
)  # fmt: skip

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, duplicates INTEGER NOT NULL DEFAULT 0);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, account INTEGER NOT NULL REFERENCES accounts, event_id TEXT,
    type TEXT NOT NULL, time TEXT NOT NULL, user_id TEXT, visitor_id TEXT,
    name TEXT, variant TEXT, value REAL, error TEXT, tags TEXT, context TEXT);
CREATE UNIQUE INDEX events_once ON events (account, event_id) WHERE event_id IS NOT NULL;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
COMMIT;
"""
_INSERT = (
    f"INSERT INTO events ({', '.join(COLUMNS)}) VALUES (?{', ?' * (len(COLUMNS) - 1)}) "  # noqa: S608
    "ON CONFLICT (account, event_id) WHERE event_id IS NOT NULL DO NOTHING"
)


@dataclass(frozen=True)
class Added:
    """What became of a batch: every event is one or the other."""

    accepted: int
    duplicates: int


@dataclass(frozen=True)
class Totals:
    """What is stored for one account."""

    events: int
    by_type: dict[str, int]
    without_id: int
    duplicates: int


def account_key(token: str) -> str:
    """Names an account by its token without keeping the token."""
    return hashlib.sha256(b"hypotest.server:" + token.encode()).hexdigest()[:32]


class Store:
    """The database file, created if missing, readable by its owner only.

    Attributes:
        writer: the one thread that may call `add` and `account`.

    Raises:
        StorageError: the file cannot be used, or is not a database of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer = ThreadPoolExecutor(1, "hypotest-store")
        try:
            self._connection = _open(path)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path} cannot be used as the database: {error}") from error

    def account(self, token: str) -> int:
        """Gives the id of a token's account, making it if needed.

        Raises:
            StorageError: the database cannot be written.
        """
        key = (account_key(token),)
        try:
            self._connection.execute("INSERT INTO accounts (key) VALUES (?) ON CONFLICT DO NOTHING", key)
            row: tuple[int] = self._connection.execute("SELECT id FROM accounts WHERE key = ?", key).fetchone()
        except sqlite3.Error as error:
            raise StorageError(f"{self.path} can't be written: {error}") from error
        return row[0]

    def add(self, account: int, rows: Sequence[Row]) -> Added:
        """Stores a batch of that account in one transaction; it is committed when this returns.

        Raises:
            sqlite3.Error: nothing of the batch is stored.
        """
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            before = connection.total_changes
            connection.executemany(_INSERT, rows)
            accepted = connection.total_changes - before
            duplicates = len(rows) - accepted
            if duplicates:
                connection.execute(
                    "UPDATE accounts SET duplicates = duplicates + ? WHERE id = ?", (duplicates, account)
                )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return Added(accepted, duplicates)

    def totals(self, account: int) -> Totals:
        """Counts what is stored; a full scan, from any thread."""
        with self.reading() as connection:
            counted = connection.execute(
                "SELECT type, count(*), sum(event_id IS NULL) FROM events WHERE account = ? GROUP BY type",
                (account,),
            ).fetchall()
            (duplicates,) = connection.execute("SELECT duplicates FROM accounts WHERE id = ?", (account,)).fetchone()
        by_type = dict.fromkeys(TYPES, 0) | {name: count for name, count, _ in counted}
        return Totals(sum(by_type.values()), by_type, sum(nulls for _, _, nulls in counted), duplicates)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Opens a read-only connection inside one transaction: what it reads belongs together."""
        uri = f"{self.path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            yield connection

    def close(self) -> None:
        """Finishes what is queued and folds the log into the file."""
        self.writer.shutdown()
        self._connection.close()


def _open(path: Path) -> sqlite3.Connection:
    # Born 0600: SQLite gives its log and index files the mode of the database.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        _check_or_create(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute("PRAGMA cache_size = -65536")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_or_create(connection: sqlite3.Connection) -> None:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        connection.executescript(_SCHEMA)
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise sqlite3.DatabaseError("it is the database of another program")
    if version != FORMAT:
        raise sqlite3.DatabaseError(f"its format is {version}, this server reads {FORMAT}")
