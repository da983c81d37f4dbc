"""The writer: rotation, a full file system, a file that somebody removed."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from prtrace.errors import UnavailableError
from prtrace.prhelper import attribution_log
from prtrace.prhelper.attribution_log import NAME, AttributionLog
from prtrace.prhelper.sparing_log import SparingLog

LINE = b'{"schema":"x"}\n'


def new_log(folder: Path) -> AttributionLog:
    return AttributionLog(folder, SparingLog(logging.getLogger("test")))


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be written"):
        new_log(tmp_path / "x")


def test_a_full_file_is_kept_once_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution_log, "ROTATE_SIZE", 3 * len(LINE))
    log = new_log(tmp_path)
    for _ in range(5):
        log.write(LINE)
    assert (tmp_path / f"{NAME}.1").read_bytes() == 3 * LINE
    assert (tmp_path / NAME).read_bytes() == 2 * LINE
    log.close()


def test_a_rotation_that_failed_half_way_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The old file is renamed and no new one can be opened: no line is lost, then or later."""
    monkeypatch.setattr(attribution_log, "ROTATE_SIZE", 3 * len(LINE))
    log = new_log(tmp_path)
    for _ in range(3):
        log.write(LINE)
    # Whatever comes first at the next opening: here the name leads to a directory's end.
    real = os.open

    def full(*words: object, **names: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", full)
    log.write(LINE)
    monkeypatch.setattr(os, "open", real)
    for _ in range(3):
        log.write(LINE)
    text = (tmp_path / f"{NAME}.1").read_bytes() + (tmp_path / NAME).read_bytes()
    assert text == 7 * LINE
    assert (tmp_path / NAME).read_bytes()
    assert log.failures == 0
    assert "cannot be renewed: Too many open files" in caplog.text
    log.close()


def test_a_full_file_system_costs_lines_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = new_log(tmp_path)
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to("/dev/full")
    os.dup2(os.open("/dev/full", os.O_WRONLY), log._fd)
    log.write(LINE)
    log.write(LINE)
    assert log.failures == 2
    assert "cannot be written" in caplog.text
    (tmp_path / NAME).unlink()
    log._open()
    log.write(LINE)
    assert log.failures == 0
    assert "is written again; 2 lines were lost" in caplog.text
    assert (tmp_path / NAME).read_bytes().endswith(LINE)
    log.close()


def test_a_file_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    log.write(LINE)
    (tmp_path / NAME).unlink()
    for _ in range(attribution_log._LOOK_EACH):
        log.write(LINE)
    assert (tmp_path / NAME).read_bytes().endswith(LINE)
    log.close()
