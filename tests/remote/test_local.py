"""A runner on this machine: what it says, what crashes and hangs with it, and that it takes nothing along."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg.engine import CompiledModel, Library, Sampler
from mossnet_tg.errors import ArtifactError, ConsentError, DeviceError, MossnetError, UsageError
from mossnet_tg.remote import RemoteLogits, Runner
from mossnet_tg.sampling import SamplingParams
from mossnet_tg.targets.frames import Connection, Request
from mossnet_tg.targets.transport import Local, own_runner
from tests.remote.fragile import CRASH, HANG
from tests.runtime.toy import BUFFERS, Reference, toy, write_toy

DECODE = 0


def test_it_says_of_the_machine_what_the_library_says(runner: Runner) -> None:
    here = Library.default()
    for name in ("version", "cpu_arch", "cpu_count", "cpu_features"):
        assert getattr(runner, name) == getattr(here, name), name
    assert runner.system == "Linux" and runner.cpu_name
    assert runner.devices("cpu") == here.devices("cpu")
    with pytest.raises(UsageError, match="abacus"):
        runner.devices("abacus")
    assert runner.read_bandwidth(8 << 20, 1, 2) > 1e8
    with pytest.raises(UsageError, match="at most 1 GiB"):
        runner.read_bandwidth(2 << 30)


def test_a_model_says_there_what_it_says_here(runner: Runner, plain: Path) -> None:
    with runner.load(plain, allow_native=True) as there, CompiledModel(plain, allow_native=True) as here:
        assert there.info == here.info and there.tokenizer == here.tokenizer and there.device == here.device
        assert [there.meta(key) for key in ("config", "target", "nothing")] == ['{"toy": true}', "cpu", None]
        assert there.bandwidth(8 << 20, 1) > 1e8 and there.library is runner
    with pytest.raises(ValueError, match="closed"):
        there.session()


def test_what_is_refused_there_is_refused_as_here(runner: Runner, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ConsentError, match="with your rights") as consent:
        runner.load(plain)
    assert consent.value.hint
    with pytest.raises(ArtifactError, match="driver abacus"):
        runner.load(write_toy(tmp_path / "x.moss", toy(driver="abacus")), allow_native=True)
    with pytest.raises(MossnetError, match=r"nothing\.moss: No such file"):
        runner.load(tmp_path / "nothing.moss")
    with pytest.raises(MossnetError, match="holds a NUL"):
        runner.devices("a\0b")
    with pytest.raises(UsageError, match="timeout_s is 1e"):
        runner.load(plain, timeout_s=1e30)
    with pytest.raises(UsageError, match="threads"):
        runner.load(plain, allow_native=True).session(5000)


def test_sessions_and_buffers(runner: Runner, plain: Path) -> None:
    session = runner.load(plain, allow_native=True).session(2)
    session.write(BUFFERS.index("ids"), np.array([5], np.int32))
    session.write(BUFFERS.index("params"), np.array([1, 0], np.int32))
    session.run(DECODE, 1, 2)
    logits = np.zeros((4, 8), np.float32)
    session.read(BUFFERS.index("logits"), logits)
    assert np.array_equal(logits.ravel(), Reference().read(5))
    seconds = session.profile(DECODE, 5)
    assert seconds.shape == (3,) and (seconds > 0).all() and session.position == 0
    with pytest.raises(UsageError, match="no number"):
        session.run(DECODE, -1, 1)


def test_logits_stay_there_until_they_are_read(runner: Runner, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    send = Connection.send

    def noted(self: Connection, request: Request, *rest: object, **options: bool) -> object:
        asked.append(request.name)
        return send(self, request, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "send", noted)
    model = runner.load(plain, allow_native=True)
    session, sampler = model.session(1), model.sampler()
    token = sampler.pick(session.prefill([1, 2]))
    reference = Reference()
    expected = reference.read(1, 2)
    assert token == expected.argmax()
    sampler.accept(token)
    assert sampler.pick(session.decode(token)) == reference.read(token).argmax()
    assert asked[-4:] == ["PICK", "DECODE", "ACCEPT", "PICK"] and "LOGITS" not in asked
    kept = session.decode(3)
    assert isinstance(kept, RemoteLogits) and kept.are_there
    third, fourth = reference.read(3), reference.read(4)
    other = session.decode(4)
    assert asked[-3:] == ["DECODE", "LOGITS", "DECODE"]  # somebody holds them still
    assert np.array_equal(kept, third) and np.array_equal(other, fourth)
    assert other.argmax() == fourth.argmax() and len(other) == 32 and other[3] == fourth[3]
    assert np.asarray(other, np.float64).dtype == np.float64 and (other + np.float32(1) == fourth + 1).all()


def test_samplers_pick_what_they_pick_here(runner: Runner, plain: Path) -> None:
    model = runner.load(plain, allow_native=True)
    params = SamplingParams(temperature=900.0, top_k=20, top_p=0.95, repetition_penalty=1.5, seed=11)
    here, there = Sampler(params), model.sampler(params)
    session = model.session(1)
    token, expected, reference = 1, [], Reference()
    for _ in range(60):
        found = there.pick(session.decode(token))
        token = here.pick(reference.read(token))
        expected.append(token)
        assert found == token
        for sampler in (here, there):
            sampler.accept(token)
    assert len(set(expected)) > 10
    with model.sampler() as sampler:
        assert sampler.pick(np.array([1, 5, 2], np.float32)) == 1
        with pytest.raises(UsageError, match="one dimension"):
            sampler.pick(np.zeros((2, 2), np.float32))
        with pytest.raises(UsageError):
            sampler.pick(np.array([np.nan], np.float32))
        picked = session.decode(1)
        session.reset()
        assert sampler.pick(picked) == np.argmax(picked)
        for request, payload in ((Request.PICK, sampler.number + session.number), (Request.LOGITS, session.number)):
            with pytest.raises(UsageError, match="no logits"):
                runner.connection.call(request, payload)


def test_a_crash_ends_the_runner_and_nothing_else(runner: Runner, fragile: Path) -> None:
    session = runner.load(fragile, allow_native=True).session(1)
    with pytest.raises(DeviceError, match=r"^local: the runner ended before it answered PREFILL by SIGSEGV"):
        session.prefill([1, CRASH])
    for call in (session.reset, lambda: session.decode(1), lambda: runner.devices("cpu")):
        with pytest.raises(DeviceError, match="SIGSEGV"):
            call()
    session.close()
    runner.restart()
    again = runner.load(fragile, allow_native=True).session(1)
    assert np.array_equal(again.prefill([1, 2]), Reference().read(1, 2))


def test_a_crash_on_a_token_that_nobody_waited_for(runner: Runner, fragile: Path) -> None:
    model = runner.load(fragile, allow_native=True)
    session, sampler = model.session(1), model.sampler()
    logits = session.decode(CRASH)
    with pytest.raises(DeviceError, match="before it answered DECODE by SIGSEGV"):
        sampler.pick(logits)
    with pytest.raises(DeviceError, match="SIGSEGV"):
        np.asarray(logits)


@pytest.mark.parametrize("waits", [True, False])
def test_a_hang_ends_after_its_deadline(runner: Runner, fragile: Path, waits: bool) -> None:
    model = runner.load(fragile, allow_native=True, timeout_s=0.3)
    session = model.session(1)
    assert np.array_equal(session.decode(1), Reference().read(1))
    started = time.monotonic()
    with pytest.raises(DeviceError, match="local: DECODE not done after 1300 ms, so it counts as hung"):
        session.decode(HANG, copy=not waits).argmax()
    assert 1.2 < time.monotonic() - started < 4
    with pytest.raises(DeviceError, match="hung"):
        model.session()
    runner.restart()
    assert runner.load(fragile, allow_native=True).session(1).decode(1)[0] == Reference().read(1)[0]


def test_a_runner_that_is_killed_in_the_middle(runner: Runner, fragile: Path) -> None:
    session = runner.load(fragile, allow_native=True).session(1)
    pid = runner.connection.stream._process.pid
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(DeviceError, match="SIGKILL"):
        session.decode(HANG, copy=False)


def test_a_runner_whose_other_end_goes_away_in_the_middle_ends(fragile: Path) -> None:
    """The cable is cut while a kernel runs: nothing may be left that runs for ever."""
    runner = Runner.local()
    session = runner.load(fragile, allow_native=True).session(1)
    session.decode(HANG)
    stream = runner.connection.stream
    stream._write()
    time.sleep(0.1)
    started = time.monotonic()
    assert stream.end(patience_s=5.0) == 76 and time.monotonic() - started < 2


def test_closing_does_not_wait_for_what_runs(fragile: Path) -> None:
    """As Ctrl-C does in the middle of a prompt."""
    runner = Runner.local()
    session = runner.load(fragile, allow_native=True).session(1)
    asked = runner.connection.send(Request.DECODE, session.number + HANG.to_bytes(4, "little"))
    with pytest.raises(TimeoutError):
        runner.connection.stream.wait(lambda: asked.is_there, time.monotonic() + 0.1)
    started = time.monotonic()
    runner.close()
    assert time.monotonic() - started < 2


def test_the_end(plain: Path) -> None:
    runner = Runner.local()
    process = runner.connection.stream._process
    model = runner.load(plain, allow_native=True)
    del runner
    gc.collect()
    assert process.poll() is None  # the model needs it
    session = model.session(1)
    del model, session
    gc.collect()
    assert process.poll() == 0
    runner = Runner.local()
    session = runner.load(plain, allow_native=True).session(1)
    runner.close()
    runner.close()
    session.close()
    with pytest.raises(DeviceError, match="the runner was closed"):
        runner.devices("cpu")


def test_what_is_dropped_is_freed_there(runner: Runner, plain: Path) -> None:
    """A runner takes 64 models and 1024 sessions: many more can come one after the other."""
    for _ in range(70):
        runner.load(plain, allow_native=True)
    model = runner.load(plain, allow_native=True)
    for _ in range(1030):
        model.session(1)
        model.sampler()
    held = [runner.load(plain, allow_native=True) for _ in range(63)]
    with pytest.raises(MossnetError, match="64 models are there"):
        runner.load(plain, allow_native=True)
    held.pop().close()
    runner.load(plain, allow_native=True)


def test_threads_share_a_runner(runner: Runner, plain: Path) -> None:
    model = runner.load(plain, allow_native=True)
    failures = []

    def work(seed: int) -> None:
        ids = np.random.default_rng(seed).integers(0, 32, 30).tolist()
        for _ in range(5):
            session, reference = model.session(1), Reference()
            for token in ids:
                if not np.array_equal(session.decode(token), reference.read(token)):
                    failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_leaves_the_runner_alone(runner: Runner, plain: Path) -> None:
    session = runner.load(plain, allow_native=True).session(1)
    child = os.fork()
    if not child:
        code = 1
        try:
            session.decode(1, copy=False)
        except DeviceError:
            code = 0
        runner.close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(session.decode(1), Reference().read(1))


def test_what_is_no_runner(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="No such file"):
        Runner(Local(tmp_path / "nothing"))
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho >> {tmp_path}/starts\necho no GLIBC here >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(DeviceError, match=r"ended before it answered HELLO: no GLIBC here; tried 3 times"):
        Runner(Local(script))
    assert len((tmp_path / "starts").read_text()) == 3
    script.write_text("#!/bin/sh\nprintf 'MNRP\\201\\0\\0\\0\\7\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0'; cat > /dev/null\n")
    with pytest.raises(DeviceError, match="no answer: type 129, number 7"):
        Runner(Local(script))


def test_a_runner_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Library, "version", "9.9.9")
    with pytest.raises(MossnetError, match=r"the runner is version 0.*, expected 9\.9\.9"):
        Runner.local()


def test_what_a_login_says_first_is_skipped(tmp_path: Path, plain: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho 'Welcome, MN! No mail, MNR'\nexec {own_runner()} --serve\n")
    script.chmod(0o755)
    with Runner(Local(script)) as runner:
        assert runner.load(plain, allow_native=True).session(1).decode(1).shape == (32,)


def test_the_program_itself() -> None:
    def run(*args: str) -> tuple[int, str, str]:
        done = subprocess.run([own_runner(), *args], capture_output=True, text=True, timeout=20, input="x")
        return done.returncode, done.stdout, done.stderr

    assert run("--version") == (0, f"mossnet-run {Library.default().version}\n", "")
    code, out, err = run("--help")
    assert code == 0 and "--serve" in out and not err
    for wrong in ((), ("--what",), ("--serve", "x")):
        code, out, err = run(*wrong)
        assert code == 2 and not out and "usage: " in err
    assert run("--serve")[0] == 0  # the stream ends within a frame's header


def test_it_stands_alone() -> None:
    """One file is pushed to a device: nothing of ours is needed beside it."""
    found = subprocess.run(["readelf", "-d", own_runner()], capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].split("]")[0] for line in found.splitlines() if "(NEEDED)" in line]
    expected = ("libc.", "libm.", "libdl.", "libpthread.", "ld-linux")
    assert needed and all(name.startswith(expected) for name in needed), needed
    assert "RUNPATH" not in found and "RPATH" not in found
