"""Sessions: the tokens reach the state whole, in order and once, however a text is cut."""

from __future__ import annotations

import os
import struct
import threading
import time

import numpy as np
import pytest

from mossnet_tg.engine import DECODE, PREFILL, SCORE, CompiledModel, Library
from mossnet_tg.errors import ArtifactError, CancelledError, MossnetError, UsageError
from tests.runtime.toy import BUFFERS, LOG_CALLS, Reference, toy, write_toy

TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
LOG = BUFFERS.index("log")


def log(session):
    rows = np.zeros(1 + 8 * LOG_CALLS, np.int32)
    session.read(LOG, rows)
    return rows[1 : 1 + 8 * rows[0]].reshape(-1, 8).tolist()


def test_info_and_meta(load):
    model = load(vocab_size=40, chunk=8, max_context=100)
    info = model.info
    assert (info.vocab_size, info.chunk, info.max_context) == (40, 8, 100)
    assert info.n_steps == (3, 3, 2)
    assert info.model_hash == "5a" * 32
    assert info.session_bytes == info.state_bytes + info.arena_bytes + info.io_bytes
    assert info.n_buffers == len(BUFFERS)
    assert model.meta("config") == '{"toy": true}'
    assert model.meta("nothing") is None
    assert model.tokenizer == b'{"version": "1.0"}'
    assert load(with_score=False).info.n_steps == (3, 3, 0)


def test_prefill_splits_into_chunks_and_tail(load):
    session = load().session(1)
    session.prefill(TEXT)  # 11 = 4 + 4 + 3 padded
    assert log(session) == [
        [PREFILL, 4, 0, 3, 1, 4, 1, -1],
        [PREFILL, 4, 4, 5, 9, 2, 6, -1],
        [PREFILL, 3, 8, 5, 3, 5, 0, -1],
    ]
    session.prefill(TEXT[:5])  # 4, and a single one through decode
    assert log(session)[3:] == [[PREFILL, 4, 11, 3, 1, 4, 1, -1], [DECODE, 1, 15, 5, -1, -1, -1, -1]]
    session.decode(7)
    assert log(session)[5:] == [[DECODE, 1, 16, 7, -1, -1, -1, -1]]
    assert session.position == 17


def test_chunk_of_one_goes_through_prefill(load):
    session = load(chunk=1).session(1)
    assert np.array_equal(session.prefill(TEXT[:3]), Reference().read(*TEXT[:3]))
    assert [row[0] for row in log(session)] == [PREFILL] * 3


@pytest.mark.parametrize("n_threads", [1, 2, 4])
@pytest.mark.parametrize("n", range(1, 12))
def test_prefill_equals_decode(load, n, n_threads):
    model = load()
    session = model.session(n_threads)
    assert session.n_threads == n_threads
    expected = Reference().read(*TEXT[:n])
    assert np.array_equal(session.prefill(TEXT[:n]), expected)
    steps = model.session(n_threads)
    for token in TEXT[:n]:
        got = steps.decode(token)
    assert np.array_equal(got, expected)
    assert session.position == steps.position == n


@pytest.mark.parametrize("with_score", [True, False])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 6, 11])
def test_score_gives_the_logits_of_each_token(load, n, with_score):
    session = load(with_score=with_score).session(2)
    reference = Reference()
    expected = np.array([reference.read(token) for token in TEXT[:n]])
    assert np.array_equal(session.score(TEXT[:n]), expected)
    assert session.position == n
    assert np.array_equal(session.decode(7), reference.read(7))
    kinds = {row[0] for row in log(session)[:-1]}
    assert (SCORE in kinds) == (with_score and n > 1)


def test_views_are_overwritten_and_copies_are_not(load_here):
    session = load_here().session(1)
    view, copy = session.decode(1, copy=False), session.decode(2)
    assert np.array_equal(view, copy)  # the second call came between
    assert not view.flags.writeable
    session.decode(3)
    assert not np.array_equal(view, copy)
    assert np.array_equal(copy, Reference().read(1, 2))


def test_default_threads_are_the_allowed_cpus(load):
    assert load().session().n_threads == len(os.sched_getaffinity(0)) == Library.default().cpu_count


def test_too_many_threads(load):
    with pytest.raises(UsageError, match="5000 threads"):
        load().session(5000)


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([1, 2, 32], "token 2 is 32, expected 0 to 31"),
        ([-1], "token 0 is -1"),
        ([1 << 40], "no int32"),
        ([], "at least one"),
        ([1.5], "expected integers"),
        ([[1, 2]], "shape"),
    ],
)
def test_wrong_ids_change_nothing(load, ids, match):
    session = load().session(1)
    session.prefill(TEXT)
    before = session.save()
    for call in (session.prefill, session.score):
        with pytest.raises(UsageError, match=match):
            call(ids)
    if len(ids) == 1 and isinstance(ids[0], int):
        with pytest.raises(UsageError):
            session.decode(ids[0])
    assert session.save() == before
    assert len(log(session)) == 3


def test_max_context(load):
    session = load(max_context=10).session(1)
    session.prefill(TEXT[:8])
    with pytest.raises(UsageError, match="3 tokens after 8 are more than the model's context of 10") as error:
        session.prefill(TEXT[:3])
    assert error.value.hint
    assert session.position == 8
    session.prefill(TEXT[:2])
    with pytest.raises(UsageError, match="context"):
        session.decode(1)
    session.reset()
    session.decode(1)


def test_reset(load):
    session = load().session(1)
    session.prefill(TEXT)
    session.reset()
    assert session.position == 0
    assert np.array_equal(session.prefill(TEXT[:2]), Reference().read(*TEXT[:2]))


def test_fork_goes_its_own_way(load):
    session = load().session(2)
    session.prefill(TEXT)
    other = session.fork()
    assert (other.position, other.n_threads) == (len(TEXT), 2)
    session.decode(1)
    assert np.array_equal(other.decode(2), Reference().read(*TEXT, 2))
    assert np.array_equal(session.decode(3), Reference().read(*TEXT, 1, 3))


def test_save_and_restore(load):
    model = load()
    session, other = model.session(1), model.session(2)
    session.prefill(TEXT)
    state = session.save()
    session.decode(1)
    other.prefill([7, 7])
    other.restore(state)
    session.restore(state)
    assert other.position == session.position == len(TEXT)
    expected = Reference().read(*TEXT, 2)
    assert np.array_equal(other.decode(2), expected)
    assert np.array_equal(session.decode(2), expected)


def test_restore_refuses_what_does_not_fit(load, tmp_path):
    session = load(max_context=50).session(1)
    session.prefill(TEXT)
    state = session.save()
    moved = toy(max_context=50)
    other_plan = [*moved.buffers]
    other_plan[3] = type(other_plan[3])("state", other_plan[3].region, other_plan[3].dtype, 0, 16)
    moved = type(moved)(**{**vars(moved), "buffers": other_plan})
    relaid = CompiledModel(write_toy(tmp_path / "relaid.moss", moved), allow_native=True).session(1)
    cases = [
        (session, state[:-1], "cut short"),
        (session, state[:20], "a header alone"),
        (session, b"", "a header alone"),
        (session, state + b"x", "cut short"),
        (session, b"X" + state[1:], "no saved state"),
        (session, state[:8] + struct.pack("<I", 2) + state[12:], "version 2"),
        (session, state[:56] + struct.pack("<Q", 51) + state[64:], "position 51"),
        (session, state[:72] + b"\x01" + state[73:], "version"),
        (load(model_hash=b"\x01" * 32).session(1), state, "another model"),
        (relaid, state, "laid out differently"),
    ]
    for target, broken, match in cases:
        before = target.save()
        with pytest.raises(ArtifactError, match=match):
            target.restore(broken)
        assert target.save() == before
    session.restore(state)


def test_every_header_bit_of_a_state_is_refused_or_harmless(load):
    session = load(max_context=50).session(1)
    session.prefill(TEXT)
    state = session.save()
    for bit in range(8 * 80):
        broken = bytearray(state)
        broken[bit // 8] ^= 1 << bit % 8
        position_bit = 56 * 8 <= bit < 64 * 8
        if position_bit and int.from_bytes(broken[56:64], "little") <= 50:
            session.restore(bytes(broken))
        else:
            with pytest.raises(ArtifactError):
                session.restore(bytes(broken))


def test_run_single_steps(load):
    session = load().session(1)
    session.write(BUFFERS.index("ids"), np.array([5], np.int32))
    session.write(BUFFERS.index("params"), np.array([1, 0], np.int32))
    session.run(DECODE, 1, 1)
    state = np.zeros(2, np.uint32)
    session.read(BUFFERS.index("state"), state)
    reference = Reference()
    expected = reference.read(5)
    assert state.tolist() == [reference.hash, 1]
    assert session.position == 0
    session.run(DECODE, 2, 1)
    logits = np.zeros(32, np.float32)
    session.read(BUFFERS.index("logits"), logits)
    assert np.array_equal(logits, expected)
    for entry, first, n in ((DECODE, 2, 2), (DECODE, 4, 0), (DECODE, 1, (1 << 32) - 1), (3, 0, 1)):
        with pytest.raises(UsageError):
            session.run(entry, first, n)


def test_read_and_write_stay_inside_their_buffer(load):
    session = load().session(1)
    entry = np.zeros(3, np.int32)
    session.read(BUFFERS.index("entry_prefill"), entry)
    assert entry.tolist() == [PREFILL, 4, 32]
    with pytest.raises(UsageError, match="read only"):
        session.write(BUFFERS.index("entry_prefill"), entry)
    with pytest.raises(UsageError, match="12 bytes of buffer 3, which has 8"):
        session.read(BUFFERS.index("state"), entry)
    with pytest.raises(UsageError, match="12 bytes of buffer 3, which has 8"):
        session.write(BUFFERS.index("state"), entry)
    with pytest.raises(UsageError, match="buffer 8 of 8"):
        session.read(8, entry)


def test_profile(load):
    session = load().session(2)
    session.prefill(TEXT)
    for entry, n in ((DECODE, 3), (PREFILL, 3), (SCORE, 2)):
        seconds = session.profile(entry, reps=5)
        assert seconds.shape == (n,)
        assert (seconds > 0).all()
        assert (seconds < 1).all()
    assert session.position == 0
    assert np.array_equal(session.prefill(TEXT), Reference().read(*TEXT))
    with pytest.raises(UsageError, match="0 runs"):
        session.profile(DECODE, reps=0)


def test_a_profile_reads_ids_from_all_over(load):
    """Those of a mixture of experts have to reach them all."""
    session = load().session()
    session.profile(PREFILL, reps=5)
    runs = [row[3:7] for row in log(session)]
    ids = [i for run in runs for i in run]
    assert len(runs) == 6 and all(0 <= i < 32 for i in ids) and len(set(ids)) > 16
    assert len(set(map(tuple, runs))) == 6


def test_sessions_of_several_threads_share_a_model(load):
    model = load(vocab_size=64)
    failures = []

    def work(seed):
        ids = np.random.default_rng(seed).integers(0, 64, 60)
        session = model.session(2)
        reference = Reference(64)
        for _ in range(40):
            session.reset()
            reference.hash = 0
            if not np.array_equal(session.prefill(ids), reference.read(*ids.tolist())):
                failures.append(seed)
            session.write(LOG, np.zeros(1, np.int32))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_runs_without_the_threads_it_does_not_have(load_here):
    session = load_here().session(2)
    session.prefill(TEXT)
    child = os.fork()
    if not child:
        fine = np.array_equal(session.decode(1), Reference().read(*TEXT, 1))
        session.close()
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(session.decode(1), Reference().read(*TEXT, 1))


def test_closing(load):
    model = load()
    session = model.session(2)
    model.close()
    model.close()
    with pytest.raises(ValueError, match="closed"):
        model.session()
    fork = session.fork()  # the model goes with the last of its sessions
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.decode(1)
    assert np.array_equal(fork.decode(1), Reference().read(1))
    with load() as model, model.session(1) as session:
        assert session.decode(1).shape == (32,)


def test_consent(tmp_path):
    path = write_toy(tmp_path / "toy.moss", toy())
    with pytest.raises(UsageError, match="with your rights") as error:
        CompiledModel(path)
    assert error.value.hint


def test_machine_that_does_not_fit(tmp_path, load):
    features = Library.default().cpu_features
    load(features=",".join(features))
    with pytest.raises(ArtifactError, match="does not have: avx9000,nonsense") as error:
        load(features=f"{features[0]},avx9000,{features[1]},nonsense")
    assert error.value.exit_code == 4
    with pytest.raises(ArtifactError, match="compiled for riscv64"):
        load(arch="riscv64")
    with pytest.raises(ArtifactError, match="driver abacus"):
        load(driver="abacus")
    load(target="whatever")
    plan = toy()
    for key in ("driver", "arch", "features"):
        meta = {k: v for k, v in plan.meta.items() if k != key}
        path = write_toy(tmp_path / f"no_{key}.moss", type(plan)(**{**vars(plan), "meta": meta}))
        with pytest.raises(ArtifactError, match=f"`{key}`"):
            CompiledModel(path, allow_native=True)


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(MossnetError, match="No such file"):
        CompiledModel(tmp_path / "nothing.moss", allow_native=True)
    with pytest.raises(MossnetError, match="not a file"):
        CompiledModel(tmp_path, allow_native=True)
    empty = tmp_path / "empty.moss"
    empty.touch()
    with pytest.raises(ArtifactError, match="empty"):
        CompiledModel(empty, allow_native=True)


def test_a_cancelled_call_ends_between_two_runs(load_here):
    """Asked for before a call, it ends that one; what was read is known, and the session goes on from there."""
    session = load_here().session(1)
    session.prefill(TEXT[:4])
    session.cancel()
    with pytest.raises(CancelledError, match="cancelled at position 4"):
        session.prefill(TEXT[4:])
    assert session.position == 4
    assert np.array_equal(session.prefill(TEXT[4:]), Reference().read(*TEXT))
    session.cancel()
    with pytest.raises(CancelledError):
        session.score(TEXT)
    session.cancel()
    with pytest.raises(CancelledError):
        session.decode(1)
    assert np.array_equal(session.decode(7), Reference().read(*TEXT, 7))


def test_cancelled_from_another_thread(load_here):
    session = load_here().session(1)
    long = np.ones(4_000_000, np.int32)
    timer = threading.Timer(0.05, session.cancel)
    timer.start()
    with pytest.raises(CancelledError) as error:
        session.prefill(long)
    timer.join()
    assert 0 < session.position < len(long) and f"position {session.position}" in str(error.value)


def test_another_thread_is_refused(load_here):
    """While a call is in a session every other but cancel is an error, and changes nothing."""
    session = load_here().session(1)
    long = np.ones(4_000_000, np.int32)

    def read() -> None:
        with pytest.raises(CancelledError):
            session.prefill(long)

    reader = threading.Thread(target=read)
    reader.start()
    refused = 0
    calls = (
        lambda: session.prefill([1]),
        lambda: session.decode(1),
        lambda: session.score([1]),
        session.save,
        session.fork,
        lambda: session.run(DECODE, 0, 1),
        lambda: session.read(LOG, np.zeros(1, np.int32)),
        lambda: session.profile(DECODE, 1),
    )
    deadline = time.monotonic() + 10
    while session.position < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    for call in calls:
        with pytest.raises(UsageError, match="in a call already"):
            call()
        refused += 1
    session.cancel()
    reader.join(10)
    assert refused == len(calls) and not reader.is_alive() and 0 < session.position < 4_000_000
    session.decode(1)  # free again


def test_what_a_session_takes_is_known_before(load_here):
    model = load_here()
    n_bytes = model.library.call("session_bytes", model.pointer)
    assert model.info.session_bytes < n_bytes < model.info.session_bytes + 4096
