"""What has been read, and what need not be read again."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.engine import Transcript

prompts = st.lists(st.integers(0, 2), min_size=1, max_size=40)


class Sheet:
    """An engine that keeps the batches it was fed; its logits point at the last token."""

    context = 1000
    vocabulary = 3

    def __init__(self, stride, *, forgetful=False):
        self.stride = stride
        self.batches = []
        self.fed = 0
        self._forgetful = forgetful

    def feed(self, ids):
        assert 1 <= len(ids) <= self.stride
        self.batches.append(tuple(ids))
        self.fed += len(ids)
        return np.eye(3, dtype=np.float32)[ids[-1]]

    def rewind(self, length):
        if self._forgetful:
            length = 0
        while sum(map(len, self.batches)) > length:
            self.batches.pop()
        assert sum(map(len, self.batches)) == length, "cut in the middle of a batch"
        return length


def never():
    return False


@given(st.lists(prompts, min_size=1, max_size=6), st.integers(1, 8), st.booleans())
def test_what_was_read_before_changes_nothing(asked, stride, forgetful):
    used, fresh = Sheet(stride, forgetful=forgetful), Sheet(stride)
    transcript = Transcript(used)
    for prompt in asked[:-1]:
        transcript.read(prompt, never)
        for token in prompt[:3]:
            transcript.add(token)
    logits = transcript.read(asked[-1], never)
    assert np.array_equal(logits, Transcript(fresh).read(asked[-1], never))
    assert used.batches == fresh.batches


def test_a_shared_beginning_is_read_once():
    sheet = Sheet(8)
    transcript = Transcript(sheet)
    transcript.read([1] * 30, never)
    sheet.fed = 0
    transcript.read([1] * 24 + [2] * 3, never)
    assert sheet.fed == 3


def test_the_same_prompt_again_reads_its_last_stride_only():
    sheet = Sheet(8)
    transcript = Transcript(sheet)
    transcript.read([1] * 24, never)
    sheet.fed = 0
    transcript.read([1] * 24, never)
    assert sheet.fed == 8


@given(prompts, st.integers(1, 8), st.integers(0, 5))
def test_a_reading_that_was_broken_off_leaves_no_trace(prompt, stride, patience):
    sheet, fresh = Sheet(stride), Sheet(stride)
    transcript = Transcript(sheet)
    transcript.read(prompt, lambda: len(sheet.batches) >= patience)
    transcript.read(prompt, never)
    Transcript(fresh).read(prompt, never)
    assert sheet.batches == fresh.batches


def test_nobody_listening_is_noticed_between_strides():
    sheet = Sheet(4)
    assert Transcript(sheet).read([1] * 40, lambda: sheet.fed >= 8) is None
    assert sheet.fed == 8
