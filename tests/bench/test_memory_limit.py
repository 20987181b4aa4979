"""A daemon in a control group that holds no more memory than its profile's budget."""

import os
from contextlib import suppress
from pathlib import Path

import footprint as bench
import pytest

from slmops.build.quantize_gguf import plan_gguf
from slmops.profile.device import DeviceProfile
from slmops.profile.fit import Candidate, hold
from slmops.profile.load import load_profile

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]
GROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20
TYPES = ("F16", "Q8_0", "Q4_0")
KILLED = "does not load: it was ended by SIGKILL"


class Group:
    """A control group with a limit on memory, of version 1 or 2: whichever counts memory here."""

    def __init__(self, name):
        first = (GROUPS / "memory").is_dir()
        self.folder = (GROUPS / "memory" if first else GROUPS) / name
        self._limit, self._events = (
            ("memory.limit_in_bytes", "memory.oom_control") if first else ("memory.max", "memory.events")
        )
        try:
            self.folder.mkdir()
        except OSError as error:
            pytest.skip(f"no control group can be made here: {error}")
        if not (self.folder / self._limit).exists():
            self.folder.rmdir()
            pytest.skip("control groups do not count memory here")

    def limit(self, nbytes):
        (self.folder / self._limit).write_text(str(nbytes))
        with suppress(OSError):
            (self.folder / "memory.swap.max").write_text("0")

    @property
    def enter(self):
        """A command that runs another in the group."""
        return ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"))

    @property
    def kills(self):
        """How many processes were killed for want of memory."""
        words = (self.folder / self._events).read_text().split()
        return int(words[words.index("oom_kill") + 1])


@pytest.fixture
def group():
    made = Group(f"slmops-test-{os.getpid()}")
    yield made
    made.folder.rmdir()


def board(budget, context):
    """A kind of device that has `budget` bytes for models."""
    like = load_profile("raspberry-pi-zero-2w")
    memory = like.memory.model_copy(update={"total": budget + like.memory.reserve})
    serve = like.serve.model_copy(update={"context": context, "micro_batch": 64, "threads": 2})
    return DeviceProfile.model_validate({**dict(like), "memory": dict(memory), "serve": dict(serve)})


def libraries(pid):
    """Resident bytes of files other than the model, of router and worker: somebody else's, who read them."""
    mapped = [bench.files(Path(f"/proc/{each}/smaps").read_text()) for each in bench.processes(pid)]
    names = {name for each in mapped for name in each if "/model." not in name}
    return sum(max(each.get(name, 0) for each in mapped) for name in names)


def forget(folder):
    """Have the kernel drop what it holds of the artifact's files, so that the group pays for reading them."""
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def serve(artifact, context, under):
    """Fill the context twice under a limit; return the bytes of libraries that were resident."""
    forget(artifact)
    with bench.serving(artifact, under) as (pid, client):
        for letter in bench.ALONE:
            bench.fill(client, letter, context)
        return libraries(pid)


def test_what_fits_a_budget_is_never_killed_for_memory_within_it(group, room):
    """The limit is the budget less the libraries, whose pages count where they were first read."""
    context, model = 1024, bench.SMALL
    checkpoint = bench.source(model, room)
    device = board(131 * MIB, context)
    wanted = [Candidate("gguf", name, plan_gguf(checkpoint, name).predicted_bytes) for name in TYPES]
    fits = [fit for fit in hold(device, checkpoint.shape, wanted) if not fit.short]
    chosen, larger = fits[0].candidate.type, [one.type for one in wanted[: -len(fits)]]
    assert larger, "the budget is to rule something out"
    artifact, predicted = bench.make((model, chosen, context, 64), room)
    assert predicted.total <= device.memory.budget
    elsewhere = serve(artifact, context, ())

    group.limit(device.memory.budget - elsewhere)
    serve(artifact, context, group.enter)

    assert group.kills == 0
    oversize, too_much = bench.make((model, chosen, 8192, 64), room)
    assert too_much.total > device.memory.budget
    with pytest.raises(bench.DiedError) as died:
        serve(oversize, 1024, group.enter)
    assert KILLED in str(died.value)
    assert group.kills == 1
