"""Texts encoded in a forked process: the same vectors, and what goes wrong there is done and named here."""

import errno
import os
import threading

import numpy as np
import pytest

from encoders.checkpoint import TOKENIZER, save_checkpoint
from encoders.dual import build_encoder
from encoders.errors import MedretError
from encoders.plain_text import PlainText
from retrieval.early_texts import EarlyTexts

TEXTS = ["left lung  effusion", "edema " * 40]
FOLDED = ["left lung effusion", " ".join(["edema"] * 40)]


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(build_encoder(texts=TEXTS * 3, size=32, dimension=16, max_tokens=24).eval(), tmp_path / "encoder")
    return tmp_path / "encoder"


def test_vectors_and_cuts_are_those_of_this_process_bit_for_bit(folder):
    plain, early = PlainText(folder), EarlyTexts(folder, TEXTS)

    for found, expected in zip(early.encode(FOLDED), plain.encode(FOLDED), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32
    assert early.is_cut(TEXTS) == [False, True]
    assert early.max_tokens == 24


def test_other_texts_are_encoded_here(folder):
    early = EarlyTexts(folder, TEXTS)

    np.testing.assert_array_equal(early.encode(["edema"])[0], PlainText(folder).encode(["edema"])[0])
    assert early.is_cut(["edema"]) == [False]


def test_what_fails_there_is_named_here(folder, capfd):
    (folder / TOKENIZER).write_text("{")
    early = EarlyTexts(folder, TEXTS)

    with pytest.raises(MedretError, match="no readable tokenizer"):
        early.encode(FOLDED)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError, SystemExit])
def test_whatever_stops_it_there_is_done_here_and_said_by_none(folder, monkeypatch, capfd, fault):
    here = os.getpid()
    encode = PlainText.encode

    def stopped(self, texts):
        if os.getpid() != here:
            raise fault
        return encode(self, texts)

    monkeypatch.setattr(PlainText, "encode", stopped)
    print("waits in a buffer", end="")

    found = EarlyTexts(folder, TEXTS).encode(FOLDED)

    np.testing.assert_array_equal(found[0], PlainText(folder).encode(FOLDED)[0])
    assert capfd.readouterr() == ("waits in a buffer", "")


def test_where_no_process_can_be_had_all_is_done_here(folder, monkeypatch):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)

    np.testing.assert_array_equal(EarlyTexts(folder, TEXTS).encode(FOLDED)[0], PlainText(folder).encode(FOLDED)[0])


def test_it_ends_though_nobody_reads_what_it_wrote_and_no_file_or_process_stays(folder, monkeypatch):
    files, threads, forked = os.listdir("/proc/self/fd"), set(threading.enumerate()), []  # noqa: PTH208 (a list of names)
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: forked.append(fork()) or forked[-1])

    EarlyTexts(folder, TEXTS).encode(FOLDED)
    unread = EarlyTexts(folder, [f"edema {number}" for number in range(400)])  # more than a pipe holds
    os.close(unread._pipe)
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)

    assert len(forked) == 2
    for process in forked:
        with pytest.raises(ChildProcessError):
            os.waitpid(process, os.WNOHANG)
    assert os.listdir("/proc/self/fd") == files  # noqa: PTH208
