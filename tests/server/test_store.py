from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from hypotest.errors import StorageError
from hypotest.server.batch import Row, parse_batch
from hypotest.server.store import Added, Store, Totals
from tests.server.sample import goal, match, visit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store(path)) as store:
        yield store


def rows(account: int, *events: dict[str, Any]) -> list[Row]:
    return parse_batch(orjson.dumps({"events": events}), account)


def test_resend(store: Store) -> None:
    """A batch that is sent again is counted as duplicates and stored once."""
    account = store.account("t")
    batch = rows(account, visit(), goal(), match("u", "v"))
    assert store.add(account, batch) == Added(3, 0)
    assert store.add(account, batch) == Added(0, 3)
    by_type = {"visit": 1, "goal": 1, "match_user_visitor": 1}
    assert store.totals(account) == Totals(events=3, by_type=by_type, without_id=0, duplicates=3)


def test_overlap(store: Store) -> None:
    """A batch may be partly new, and repeat an event of its own."""
    account = store.account("t")
    first, second = visit(), visit()
    store.add(account, rows(account, first))
    assert store.add(account, rows(account, first, second, second)) == Added(1, 2)


def test_without_id(store: Store) -> None:
    """Events without an id are all kept."""
    account = store.account("t")
    batch = rows(account, *[visit() | {"event_id": None}] * 3)
    assert store.add(account, batch) == Added(3, 0)
    assert store.add(account, batch) == Added(3, 0)
    assert store.totals(account).without_id == 6


def test_accounts_do_not_meet(store: Store) -> None:
    """The same event id under two tokens is two events."""
    one, two = store.account("one"), store.account("two")
    event = visit()
    assert store.add(one, rows(one, event)) == store.add(two, rows(two, event)) == Added(1, 0)
    assert (store.totals(one).events, store.totals(two).events) == (1, 1)


def test_reopened(path: Path) -> None:
    """Accounts, events and the count of duplicates outlive the store."""
    with closing(Store(path)) as store:
        account = store.account("t")
        batch = rows(account, visit())
        store.add(account, batch)
        store.add(account, batch)
    with closing(Store(path)) as store:
        assert store.account("t") == account
        assert store.account("u") != account
        assert (store.totals(account).events, store.totals(account).duplicates) == (1, 1)


def test_whole_or_not_at_all(store: Store) -> None:
    """A batch that fails in the middle leaves nothing, and the next one is stored."""
    account = store.account("t")
    good = rows(account, visit(), visit())
    bad = (account, "id", None, *good[0][3:])
    with pytest.raises(sqlite3.IntegrityError):
        store.add(account, [*good, bad])  # type: ignore[list-item]
    assert store.totals(account).events == 0
    assert store.add(account, good) == Added(2, 0)


def test_committed_when_it_returns(store: Store) -> None:
    """What `add` returned for is seen by any other connection, in a log that is synced before it is folded in."""
    account = store.account("t")
    store.add(account, rows(account, visit()))
    with closing(sqlite3.connect(store.path)) as other:
        assert other.execute("SELECT count(*) FROM events").fetchone() == (1,)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (1,)


def test_reader_keeps_its_moment(store: Store) -> None:
    """A reader sees one state of the database while batches go on arriving."""
    account = store.account("t")
    with store.reading() as reader:
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (0,)
        store.add(account, rows(account, visit()))
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_reader_cannot_write(store: Store) -> None:
    """A reader's connection is read-only."""
    with store.reading() as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM events")


def test_owner_only(store: Store) -> None:
    """No file of the database is readable by others, and none holds the token."""
    account = store.account("a-secret-token")
    store.add(account, rows(account, visit()))
    for file in store.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"a-secret-token" not in file.read_bytes()


def test_odd_name(tmp_path: Path) -> None:
    """A file name may hold what means something in a URI."""
    with closing(Store(tmp_path / "50% of? my#events.db")) as store:
        assert store.totals(store.account("t")).events == 0


def test_foreign_database(path: Path) -> None:
    """The database of another program is refused and left as it is."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="the database of another program"):
        Store(path)
    assert path.read_bytes() == before


def test_other_format(path: Path) -> None:
    """A database of another format version is refused."""
    Store(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="its format is 99, this server reads 1"):
        Store(path)


def test_not_a_database(path: Path) -> None:
    """A file that is no database is refused by its name."""
    path.write_bytes(b"x" * 5000)
    with pytest.raises(StorageError, match=r"events\.db cannot be used as the database"):
        Store(path)


def test_no_such_directory(tmp_path: Path) -> None:
    """A directory that is not there is an error, not a new directory."""
    with pytest.raises(StorageError, match="No such file or directory"):
        Store(tmp_path / "nowhere" / "events.db")
