"""`mossnet-tg bench`."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

import mossnet_tg
from mossnet_tg.cli import bench, bench_profile, machine
from mossnet_tg.engine import Library
from mossnet_tg.errors import MossnetError
from tests.cli.conftest import Run
from tests.devices import Row

SMALL = ("--allow-native", "-p", "8,16", "-n", "4", "-t", "1,2", "-r", "2")


@pytest.fixture(autouse=True)
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_BANDWIDTH_BYTES", 1 << 20)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_a_table(run: Run, moss: Path) -> None:
    found = run("bench", moss, *SMALL)
    assert found.exit_code == 0, found.stderr
    head, rule, *rows = found.stdout.splitlines()
    assert cells(head) == ["model", "size", "params", "target", "threads", "test", "t/s", "of read bandwidth"]
    assert set(rule) <= set("|-: ") and found.stderr == ""
    assert [(r[4], r[5]) for r in map(cells, rows)] == [(t, n) for t in "12" for n in ("pp8", "pp16", "tg4")]
    for row in map(cells, rows):
        speed, spread = row[6].split(" ± ")
        assert float(speed) > 0 and float(spread) >= 0
        assert row[7].endswith(" %") == (row[5] == "tg4")
    assert len({len(line) for line in (head, rule, *rows)}) == 1


def test_json_lines(run: Run, tiny: Path, moss: Path) -> None:
    found = run("bench", tiny, "-p", "0", "-n", "3", "-r", "3", "--json")
    assert found.exit_code == 0, found.stderr
    (row,) = map(json.loads, found.stdout.splitlines())
    assert row["test"] == "tg3" and row["n_threads"] == Library.default().cpu_count
    assert row["host_s_per_launch"] is None and row["device"] == {"name": row["cpu_info"]}
    assert len(row["samples_ns"]) == len(row["samples_ts"]) == len(row["read_bandwidth_per_s"]) == 3
    assert row["samples_ts"] == [3e9 / ns for ns in row["samples_ns"]]
    facts = json.loads(run("inspect", moss, "--json").stdout)
    assert row["read_per_token"] == facts["read_per_token"] and row["model_n_params"] == facts["parameters"]
    assert row["model_hash"] == facts["model_hash"] and row["cpu_info"] and row["version"]
    used = sorted(row["samples_ts"])[1] * row["read_per_token"]
    assert row["read_bandwidth_share"] == pytest.approx(used / sorted(row["read_bandwidth_per_s"])[1])


def test_where_the_time_goes(run: Run, moss: Path) -> None:
    args = ("bench", moss, "--allow-native", "-p", "8,200", "-n", "2,3", "-r", "1", "-t", "1,2", "--profile")
    found = run(*args)
    assert found.exit_code == 0 and found.stderr == ""
    _, *profiles = found.stdout.split("\n\n")
    titles, tables = profiles[::2], [[cells(line) for line in table.splitlines()] for table in profiles[1::2]]
    assert [title.split(" takes ")[0] for title in titles] == [
        f"{test}, {t} threads: {what}"
        for t in "12"
        for test, what in (("pp200", "a chunk of 128 tokens"), ("tg3", "a token"))
    ]
    for title, (head, _, *rows, total) in zip(titles, tables, strict=True):
        assert re.search(r"its \d+ kernels one by one [\d.]+ us; read bandwidth [\d.]+ GB/s$", title)
        assert head[:6] == ["step", "kernel", "calls", "us/call", "us", "share"]
        assert head[6:] == ["GB/s", "of read bandwidth", "GFLOP/s"]
        shares = [float(row[5].removesuffix(" %") or 0) for row in rows]
        assert sum(shares) == pytest.approx(100, abs=1) and shares == sorted(shares, reverse=True)
        assert total[0] == "all" and total[5] == "100.0 %" and int(total[2]) == sum(int(row[2]) for row in rows)
        assert not any("layers." in row[0] for row in rows) and len(set(map(tuple, rows))) == len(rows)
    assert {"head/embed.weight", "RoutedScan(ssm.A)"} <= {row[0] for row in tables[1]}


def test_where_the_time_goes_for_programs(run: Run, moss: Path) -> None:
    found = run("bench", moss, "--allow-native", "-p", "200", "-n", "3", "-r", "1", "--profile", "--json")
    prompt, decode = map(json.loads, found.stdout.splitlines())
    facts = json.loads(run("inspect", moss, "--json").stdout)
    for row, entry, n_runs in ((prompt, "prefill", 2), (decode, "decode", 3)):
        profile, kernels = row["profile"], row["profile"]["kernels"]
        n_steps = next(len(e["steps"]) for e in facts["entries"] if e["name"] == entry)
        assert sum(kernel["n_calls"] for kernel in kernels) == n_steps
        assert sum(kernel["share"] for kernel in kernels) == pytest.approx(1)
        assert sum(kernel["seconds"] for kernel in kernels) == pytest.approx(profile["kernels_s"])
        assert profile["host_s"] == pytest.approx(row["samples_ns"][0] * 1e-9 / n_runs)
        assert profile["bandwidth_per_s"] == decode["read_bandwidth_per_s"][0]
        for kernel in kernels:
            assert kernel["bytes_per_s"] == pytest.approx(kernel["bytes"] / kernel["seconds"])
            assert kernel["flops_per_s"] == pytest.approx(kernel["flops"] / kernel["seconds"])
            assert kernel["bandwidth_share"] == pytest.approx(kernel["bytes_per_s"] / profile["bandwidth_per_s"])
    (scan,) = (kernel for kernel in decode["profile"]["kernels"] if kernel["kernel"].endswith("RoutedScan"))
    assert scan["step"] == "RoutedScan(ssm.A)" and scan["n_calls"] == 2 and scan["flops"] == 2 * 2 * 48 * 4 * 7
    assert prompt["profile"]["n_tokens"] == 128 and decode["profile"]["n_tokens"] == 1
    plain = json.loads(run("bench", moss, "--allow-native", "-p", "0", "-n", "2", "-r", "1", "--json").stdout)
    assert "profile" not in plain


def test_a_profile_of_a_prompt_alone(run: Run, moss: Path) -> None:
    """The memory is measured for it, although no token is decoded."""
    args = ("bench", moss, "--allow-native", "-p", "8", "-n", "0", "-r", "1", "--profile", "--json")
    (row,) = map(json.loads, run(*args).stdout.splitlines())
    assert row["profile"]["bandwidth_per_s"] > 0 and row["read_bandwidth_per_s"] == []


def test_a_profile_without_a_clock_or_a_bandwidth() -> None:
    """What cannot be divided is no number, and no error."""
    rows = [bench_profile.Row("a", "k0", 2, 3e-6, 6e3, 0.0), bench_profile.Row("b", "k1", 1, 0.0, 5.0, 7.0)]
    profile = bench_profile.Profile(rows, 1, None)
    first, second = bench_profile.as_json(profile)
    assert first["bytes_per_s"] == pytest.approx(2e9) and first["bandwidth_share"] is None and first["share"] == 1
    assert second["bytes_per_s"] is second["flops_per_s"] is None and second["share"] == 0
    _, *shown = bench_profile.cells(profile, "read")
    assert shown[0] == ("a", "k0", "2", "1.5", "3.0", "100.0 %", "2.0", "", "")
    assert shown[1] == ("b", "k1", "1", "", "", "", "", "", "")


def test_a_gpu(run: Run, gpu: Row, gpu_device: dict[str, str], gpu_moss: Path) -> None:
    args = ("bench", gpu_moss, "--allow-native", "--device", gpu.device, "-p", "8", "-n", "4", "-r", "2")
    found = run(*args, "-t", "3")
    assert found.exit_code == 0, found.stderr
    assert found.stderr == "warning: --threads is for the processor; a GPU takes what it needs\n"
    head, _, prompt, decode = map(cells, found.stdout.splitlines())
    assert head[-4:] == ["test", "t/s", "of copy bandwidth", "host us/launch"]
    assert prompt[4:6] == ["-", "pp8"] and prompt[7:] == ["", ""]
    assert decode[4:6] == ["-", "tg4"] and decode[7].endswith(" %") and float(decode[8]) > -1e4
    _, row = map(json.loads, run(*args, "--json").stdout.splitlines())
    assert row["n_threads"] is None and row["device"]["name"] == gpu_device["name"]
    assert row["n_launches"] == json.loads(run("inspect", gpu_moss, "--json").stdout)["launches"]["total"]
    assert row["device_s_per_token"] > 0 and len(row["copy_bandwidth_per_s"]) == 2 and "read_bandwidth_per_s" not in row
    (profiled,) = map(json.loads, run(*args, "-p", "0", "--profile", "--json").stdout.splitlines())
    kernels = profiled["profile"]["kernels"]
    assert sum(kernel["n_calls"] for kernel in kernels) == row["n_launches"]
    assert sum(kernel["share"] for kernel in kernels) == pytest.approx(1)
    assert any(kernel["flops_per_s"] for kernel in kernels) and any(kernel["bandwidth_share"] for kernel in kernels)
    assert "; copy bandwidth " in run(*args, "--profile").stdout
    host_s = 1 / row["median_ts"] - row["device_s_per_token"]
    assert row["host_s_per_launch"] == pytest.approx(host_s / row["n_launches"])


def test_what_a_launch_costs() -> None:
    """Two tokens in 3 ms, of which the device worked 1 ms for each: half a millisecond on 5 launches."""
    test = bench.Test(0, 2, None, samples_ns=[3_000_000], launches=bench.Launches(5, 1e-3))
    assert test.host_s_per_launch == pytest.approx(1e-4)
    assert bench.Test(0, 2, 1, samples_ns=[3_000_000]).host_s_per_launch is None


def test_a_device_that_is_named(run: Run, tiny: Path, gpu: Row, gpu_device: dict[str, str]) -> None:
    args = ("--device", f"{gpu.name}:{gpu.device}", "-p", "0", "-n", "2", "-r", "1", "--chunk", "8", "-v")
    found = run("bench", tiny, *args)
    assert found.exit_code == 0 and f" | {gpu.name}" in found.stdout
    assert f"device: {gpu_device['name']} (" in found.stderr and "tg2: warming up" in found.stderr


def test_an_unknown_bandwidth_is_no_number(run: Run, moss: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> float:
        raise MossnetError("no memory")

    monkeypatch.setattr(Library, "read_bandwidth", fail)
    found = run("bench", moss, "--allow-native", "-p", "0", "-n", "2", "-r", "1")
    assert found.exit_code == 0 and cells(found.stdout.splitlines()[-1])[7] == ""
    assert "warning: the memory's speed was not measured: no memory" in found.stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-p", "1,x"), "'1,x' is no list of integers"),
        (("-n", "-1"), "-1 is too small"),
        (("-t", "0"), "0 is too small"),
        (("-r", "0"), "0"),
        (("--target", "tinygrad:CPU"), "runs a model uncompiled"),
    ],
)
def test_what_is_refused(run: Run, moss: Path, args: tuple[str, str], text: str) -> None:
    found = run("bench", moss, "--allow-native", *args)
    assert (found.exit_code, found.stdout) == (2, "") and text in found.stderr


def test_the_commit_of_a_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mossnet_tg" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(mossnet_tg, "__file__", str(package))
    assert machine.commit() is None

    def git(*args: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.com")
        return subprocess.run(["git", *who, *args], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    assert machine.commit() is None
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "--short", "HEAD").strip()
    assert machine.commit() == head
    package.write_text("changed")
    assert machine.commit() == head + "+"
