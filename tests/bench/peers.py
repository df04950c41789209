"""Ours beside transformers and llama.cpp: the same random Mamba-130m-shaped model in float32, in one run, interleaved.

    sh setup.sh --test python tests/bench/peers.py

llama.cpp comes through PyPI: CMAKE_ARGS=-DGGML_NATIVE=ON .venv/bin/pip install llama-cpp-python gguf (ten minutes of
compiling). Every engine is loaded once for each number of threads and then measured in turns, so that what else the
machine does hits all alike; the table gives medians, and the read bandwidth measured in the same turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from mossnet_tg.engine import Library

_WORKER = Path(__file__).with_name("worker.py")
_NEEDS = {"mossnet": (), "transformers": ("torch", "transformers"), "llama.cpp": ("llama_cpp", "gguf")}


class Worker:
    """One engine in a process of its own, so that its threads and memory are its own."""

    def __init__(self, engine: str, model: Path, n_threads: int) -> None:
        self.name, self.n_threads = engine, n_threads
        command = [sys.executable, str(_WORKER), engine, str(model), str(n_threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise SystemExit(f"error: {self.name} ended: its own message stands above")

    def run(self, kind: str, n: int) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(f"{kind} {n}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def make_model(folder: Path) -> Path:
    """Random weights in the shape of Mamba-130m, saved by transformers."""
    if not (folder / "model.safetensors").exists():
        import torch
        from transformers import MambaConfig, MambaForCausalLM

        torch.manual_seed(1337)
        sizes = {"hidden_size": 768, "state_size": 16, "num_hidden_layers": 24, "time_step_rank": 48}
        MambaForCausalLM(MambaConfig(vocab_size=50280, initializer_range=0.02, **sizes)).save_pretrained(folder)
    return folder


def make_gguf(folder: Path) -> Path:
    """The same weights in float32 as a .gguf file; no tokenizer."""
    path = folder / "model-f32.gguf"
    if path.exists():
        return path
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    writer = gguf.GGUFWriter(path.with_suffix(".part"), "mamba")
    for add, value in (
        ("name", folder.name),
        ("vocab_size", config["vocab_size"]),
        ("tokenizer_model", "none"),
        ("context_length", 1 << 20),
        ("embedding_length", config["hidden_size"]),
        ("feed_forward_length", 0),
        ("head_count", 0),
        ("block_count", config["num_hidden_layers"]),
        ("ssm_conv_kernel", config["conv_kernel"]),
        ("ssm_inner_size", config["intermediate_size"]),
        ("ssm_state_size", config["state_size"]),
        ("ssm_time_step_rank", config["time_step_rank"]),
        ("layer_norm_rms_eps", config["layer_norm_epsilon"]),
        ("file_type", 0),
    ):
        getattr(writer, f"add_{add}")(value)
    names = {
        "norm.weight": "attn_norm.weight",
        "mixer.in_proj.weight": "ssm_in.weight",
        "mixer.conv1d.weight": "ssm_conv1d.weight",
        "mixer.conv1d.bias": "ssm_conv1d.bias",
        "mixer.x_proj.weight": "ssm_x.weight",
        "mixer.dt_proj.weight": "ssm_dt.weight",
        "mixer.dt_proj.bias": "ssm_dt.bias",
        "mixer.A_log": "ssm_a",
        "mixer.D": "ssm_d",
        "mixer.out_proj.weight": "ssm_out.weight",
    }
    put = {
        "token_embd.weight": tensors["backbone.embeddings.weight"],
        "output_norm.weight": tensors["backbone.norm_f.weight"],
    }
    for layer in range(config["num_hidden_layers"]):
        for theirs, gguf_name in names.items():
            value = tensors[f"backbone.layers.{layer}.{theirs}"]
            value = -np.exp(value) if theirs.endswith("A_log") else value
            put[f"blk.{layer}.{gguf_name}"] = value.squeeze(1) if theirs.endswith("conv1d.weight") else value
    for name, value in put.items():
        writer.add_tensor(name, np.ascontiguousarray(value, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".part").rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench/mamba130m"), help="where the models are kept")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prefill", default="128,512")
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", default=",".join(_NEEDS))
    parser.add_argument("--busy", action="store_true", help="also: keep one CPU busy meanwhile, decode only")
    parser.add_argument("--json", action="store_true", help="print the samples as JSON instead of the table")
    a = parser.parse_args()
    folder = make_model(a.folder)
    work = [("prefill", int(n)) for n in a.prefill.split(",")] + [("decode", a.decode)]
    workers = []
    for engine in a.engines.split(","):
        if missing := [m for m in _NEEDS[engine] if importlib.util.find_spec(m) is None]:
            print(f"{engine}: left out, {', '.join(missing)} not installed", file=sys.stderr)
            continue
        model = make_gguf(folder) if engine == "llama.cpp" else folder
        workers += [Worker(engine, model, int(t)) for t in a.threads.split(",")]
    samples = measure(workers, work, a.rounds)
    weights_bytes = (folder / "model.safetensors").stat().st_size
    rows = summarize(workers, work, samples, weights_bytes)
    busy = beside_a_busy_core(workers, a.decode, a.rounds) if a.busy else []
    for w in workers:
        w.close()
    if a.json:
        print(json.dumps({"rows": rows, "busy": busy, "bandwidth": samples["bandwidth"]}))
        return
    print_table(rows, work)
    for row in busy:
        print(f"\n{row['engine']}, one CPU kept busy: {row['threads']} threads decode {row['t/s']:.1f} t/s", end="")
    print()


def measure(workers: list[Worker], work: list[tuple[str, int]], rounds: int) -> dict[str, Any]:
    """Seconds by (engine, threads, kind, n), in turns; and the read bandwidth by threads."""
    samples: dict[str, Any] = {"bandwidth": {}}
    library = Library.default()
    for w in workers:
        for kind, n in work:
            w.run(kind, min(n, 64))  # warm
    for number in range(rounds):
        for n_threads in sorted({w.n_threads for w in workers}):
            speed = library.read_bandwidth(1 << 30, n_threads, 3)
            samples["bandwidth"].setdefault(n_threads, []).append(speed)
        for kind, n in work:
            for w in workers:
                answer = w.run(kind, n)
                samples.setdefault(f"{w.name} {w.n_threads} {kind} {n}", []).append(answer["seconds"])
                samples[f"{w.name} {w.n_threads} memory"] = answer["memory"]
        print(f"round {number + 1}/{rounds}", file=sys.stderr)
    return samples


def summarize(
    workers: list[Worker], work: list[tuple[str, int]], samples: dict[str, Any], weights_bytes: int
) -> list[dict[str, Any]]:
    """A row for each engine and number of threads, of medians."""
    rows = []
    for w in sorted(workers, key=lambda w: w.n_threads):
        row: dict[str, Any] = {"engine": w.name, "threads": w.n_threads}
        for kind, n in work:
            row[f"{kind} {n}"] = n / statistics.median(samples[f"{w.name} {w.n_threads} {kind} {n}"])
        decode = next(row[f"{kind} {n}"] for kind, n in work if kind == "decode")
        row["of bandwidth"] = decode * weights_bytes / statistics.median(samples["bandwidth"][w.n_threads])
        row["resident MiB"], row["without mapped"] = samples[f"{w.name} {w.n_threads} memory"]
        rows.append(row)
    return rows


def beside_a_busy_core(workers: list[Worker], n: int, rounds: int) -> list[dict[str, Any]]:
    """Decode while another process keeps one CPU busy."""
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        rows = []
        for w in workers:
            seconds = [w.run("decode", n)["seconds"] for _ in range(rounds)]
            rows.append({"engine": w.name, "threads": w.n_threads, "t/s": n / statistics.median(seconds)})
        return rows
    finally:
        hog.kill()
        hog.wait()


def print_table(rows: list[dict[str, Any]], work: list[tuple[str, int]]) -> None:
    tests = [f"{kind} {n}" for kind, n in work]
    print("| engine | threads | " + " | ".join(tests) + " | of read bandwidth | resident MiB | without mapped files |")
    print("|---|--:|" + "--:|" * (len(tests) + 3))
    for row in rows:
        cells = [row["engine"], str(row["threads"]), *(f"{row[t]:.1f}" for t in tests)]
        cells += [f"{100 * row['of bandwidth']:.0f} %", f"{row['resident MiB']:.0f}", f"{row['without mapped']:.0f}"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
