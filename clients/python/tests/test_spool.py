"""Records on disk: what was stored comes out, whole, once and in order, whatever happened."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from queue import Queue
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from token_billing_client import SpoolError, SpoolFull, SpoolInUse
from token_billing_client.spool import Spool

# However slow: a file's time says nothing.
on_any_disk = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
records = st.lists(st.binary(min_size=1, max_size=90).map(bytes.hex).map(str.encode), max_size=40)


def spool_in(
    folder: Path,
    *,
    batch_records: int = 5,
    batch_bytes: int = 400,
    max_bytes: int = 100_000,
    history_bytes: int = 0,
) -> Spool:
    return Spool(
        folder,
        batch_records=batch_records,
        batch_bytes=batch_bytes,
        max_bytes=max_bytes,
        history_bytes=history_bytes,
    )


def sent_by(spool: Spool) -> list[list[bytes]]:
    """The batches of a spool that is closed, as they would be sent."""
    spool.close()
    batches = []
    while (batch := spool.take(after_seconds=60)) is not None:
        batches.append(spool.read(batch))
        spool.remove(batch)
    return batches


def send(spool: Spool, sent: Queue[bytes]) -> None:
    for batch in sent_by(spool):
        for record in batch:
            sent.put(record)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


@on_any_disk
@given(parts=st.lists(records, max_size=4))
def test_what_is_stored_comes_out_once_in_order_and_in_bounds(parts: list[list[bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in parts:
            spool = spool_in(folder)
            for record in part:
                spool.append(record)
            spool.sync()
            spool.release()

        spool = spool_in(folder)
        batches = sent_by(spool)
        spool.release()

        assert [one for batch in batches for one in batch] == [
            one for part in parts for one in part
        ]
        for batch in batches:
            assert len(batch) <= 5
            assert len(b"[" + b",".join(batch) + b"]") <= 400
        assert spool.waiting_bytes == 0
        assert files_in(folder) == []


@on_any_disk
@given(lines=records.filter(bool), cut=st.integers(min_value=0))
def test_of_a_file_cut_anywhere_every_whole_record_comes_out(lines: list[bytes], cut: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = spool_in(folder, batch_records=100, batch_bytes=100_000)
        for line in lines:
            spool.append(line)
        spool.release()
        [path] = folder.glob("*.usage")
        cut %= path.stat().st_size + 1
        whole = path.read_bytes()[:cut].count(b"\n")
        os.truncate(path, cut)

        spool = spool_in(folder)
        batches = sent_by(spool)
        spool.release()

        assert [one for batch in batches for one in batch] == lines[:whole]


class SignalAfter:
    """Raises as a signal's handler would: Python runs one after any call. `calls`: which."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, frame: FrameType, event: str, called: object) -> None:
        if event in ("call", "c_return"):
            self.left -= 1
            if not self.left:
                raise SystemExit


def test_a_signal_that_ends_an_append_anywhere_loses_nothing_and_stops_nobody(
    tmp_path: Path,
) -> None:
    for calls in itertools.count(1):
        spool = spool_in(tmp_path / str(calls), batch_records=2)
        said: list[bytes] = []
        sys.setprofile(SignalAfter(calls))
        try:
            for nr in range(5):
                spool.append(b'"%d"' % nr)
                said.append(b'"%d"' % nr)
        except SystemExit:
            pass
        finally:
            sys.setprofile(None)

        sent: Queue[bytes] = Queue()
        sender = threading.Thread(target=send, args=(spool, sent), daemon=True)
        sender.start()
        sender.join(60)
        assert not sender.is_alive(), "the spool stayed locked"
        assert list(sent.queue)[: len(said)] == said
        # The one that was interrupted is perhaps there as well.
        assert sent.qsize() <= len(said) + 1
        assert (spool.waiting_bytes, files_in(spool.folder)) == (0, [])
        spool.release()
        if len(said) == 5:
            assert calls > 50
            return


@on_any_disk
@given(parts=st.lists(records, max_size=4), bound=st.integers(0, 1500))
def test_history_is_the_last_that_was_answered_and_stays_within_its_bound(
    parts: list[list[bytes]], bound: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        answered: list[bytes] = []
        for part in parts:
            spool = spool_in(folder, history_bytes=bound)
            for record in part:
                spool.append(record)
            answered += [record for batch in sent_by(spool) for record in batch]
            kept = list(spool.history())
            spool.release()

            size = sum(path.stat().st_size for path in (folder / "sent").glob("*.usage"))
            assert size <= bound
            assert kept == answered[len(answered) - len(kept) :]
            if sum(len(record) + 10 for record in answered) <= bound:
                assert kept == answered


def test_a_damaged_line_is_kept_and_the_others_are_sent(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    for nr in range(3):
        spool.append(b'{"id":"r-%d"}' % nr)
    spool.release()
    [path] = tmp_path.glob("*.usage")
    path.write_bytes(path.read_bytes().replace(b"r-1", b"r-7"))

    spool = spool_in(tmp_path)

    assert sent_by(spool) == [[b'{"id":"r-0"}', b'{"id":"r-2"}']]
    assert b'{"id":"r-7"}\n' in (tmp_path / "damaged").read_bytes()
    spool.release()


def test_a_folder_belongs_to_one_spool(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)

    with pytest.raises(SpoolInUse, match="in use by another process"):
        spool_in(tmp_path)

    spool.release()
    spool_in(tmp_path).release()


def test_a_full_spool_says_so_and_has_room_again_when_some_was_sent(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, max_bytes=100)
    spool.append(b"x" * 80)
    with pytest.raises(SpoolFull, match="holds 90 bytes of usage that the platform has not taken"):
        spool.append(b"y")

    batch = spool.take(after_seconds=0)
    assert batch
    spool.remove(batch)
    spool.append(b"y")

    assert sent_by(spool) == [[b"y"]]
    spool.release()


def test_a_record_larger_than_a_batch_is_refused(tmp_path: Path) -> None:
    spool = spool_in(tmp_path, batch_bytes=100)
    spool.append(b"x" * 98)

    with pytest.raises(ValueError, match="the record has 99 bytes, a batch at most 100"):
        spool.append(b"x" * 99)

    assert sent_by(spool) == [[b"x" * 98]]
    spool.release()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SpoolError, match=r"file/spool cannot be used: Not a directory"):
        spool_in(tmp_path / "file" / "spool")


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    spool = spool_in(tmp_path / "spool")
    shutil.rmtree(tmp_path / "spool")

    with pytest.raises(SpoolError, match="cannot be written: No such file"):
        spool.append(b"x")

    spool.release()


# Appends until it cannot, has a batch sent, appends once more; tells what was stored.
UNTIL_FULL = """
import json, sys
from pathlib import Path
from token_billing_client.errors import SpoolError
from token_billing_client.spool import Spool

spool = Spool(Path(sys.argv[1]), batch_records=7, batch_bytes=20_000, max_bytes=10_000_000)
stored, sent, said = [], [], ""
while not said:
    record = b"%d-%s" % (len(stored), b"x" * 1000)
    try:
        spool.append(record)
        stored.append(record)
    except SpoolError as error:
        said = str(error)
batch = spool.take(after_seconds=0)
sent += spool.read(batch)
spool.remove(batch)
spool.append(b"last")
stored.append(b"last")
spool.close()
while (batch := spool.take(after_seconds=0)) is not None:
    sent += spool.read(batch)
    spool.remove(batch)
print(json.dumps([said, len(stored), sent == stored, Path(sys.argv[1], "damaged").exists()]))
"""


def test_a_full_disk_is_told_and_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    mount = "mount -t tmpfs -o size=64k tmpfs"
    if subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} {tmp_path}"], check=False
    ).returncode:
        pytest.skip("this machine lets nobody mount a small disk")

    command = f'{mount} {tmp_path} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, sys.executable, UNTIL_FULL],
        capture_output=True,
        text=True,
        check=True,
    )

    said, stored, same, damaged = json.loads(done.stdout)
    assert "cannot be written: No space left on device" in said
    assert stored > 20
    assert (same, damaged) == (True, False)


def test_a_record_written_in_part_is_taken_back(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))

    done = subprocess.run(
        [sys.executable, "-c", UNTIL_FULL, str(tmp_path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=True,
    )

    said, stored, same, damaged = json.loads(done.stdout)
    assert "cannot be written: File too large" in said
    assert (stored, same, damaged) == (3, True, False)
