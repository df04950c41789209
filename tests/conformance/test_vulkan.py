"""What the vulkan driver takes and what it refuses: devices, features, limits, SPIR-V, its cache, calls that fail."""

from __future__ import annotations

import functools
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from mossnet_tg.codegen.moss_file import Region
from mossnet_tg.engine import CompiledModel, Library
from mossnet_tg.errors import ArtifactError, DeviceError, MossnetError, UsageError
from tests.conformance import vulkan
from tests.conformance.conftest import UNDER_LAYER
from tests.conformance.vulkan import buffer, kernel
from tests.conformance.vulkan_plans import (
    BOTH,
    READ,
    SUM,
    WRITTEN,
    Module,
    Plan,
    check_sum,
    check_works,
    sum_plan,
    toy,
)
from tests.runtime.toy import RUNTIME

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(vulkan.unavailable() is not None, reason=str(vulkan.unavailable()))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in vulkan.DRIVER.env.items():
        monkeypatch.setenv(name, value)


# ---- the library and its devices


def test_every_declaration_is_held_against_the_real_ones():
    """vulkan_abi.c lists by hand what it compares."""
    header, checks = (RUNTIME / "vulkan_api.h").read_text(), (HERE.parent / "runtime" / "vulkan_abi.c").read_text()
    numbers = re.findall(r"\b(VK_[A-Z0-9_]+) =", header)
    assert len(numbers) > 80
    assert [name for name in numbers if f"N({name})" not in checks] == []
    records = re.findall(r"typedef (?:struct|enum) (\w+) \{(.*?)\n?\} \1;", header, re.S)
    assert len(records) > 50
    for name, body in records:
        assert f"R({name})" in checks
        for field in re.findall(r"(\w+)(?:\[\d+\])?;", body):
            assert f"F({name}, {field})" in checks or re.fullmatch(r"room\d", field), (name, field)


def test_a_driver_is_opened_without_a_loader(monkeypatch, tmp_path):
    monkeypatch.setenv("MOSSNET_VULKAN_LIB", vulkan.real_driver())
    check_works(tmp_path / "sum.moss")


@pytest.mark.parametrize(
    ("library", "match"),
    [
        ("/nowhere/libvulkan.so", "no Vulkan library: /nowhere/libvulkan.so.*cannot open"),
        ("libc.so.6", "neither a Vulkan loader nor a driver"),
    ],
)
def test_no_library(monkeypatch, tmp_path, library, match):
    monkeypatch.setenv("MOSSNET_VULKAN_LIB", library)
    with pytest.raises(DeviceError, match=match):
        Library.default().devices("vulkan")
    with pytest.raises(DeviceError, match=match):
        CompiledModel(sum_plan().write(tmp_path / "sum.moss"), allow_native=True)


def test_no_driver(monkeypatch, tmp_path):
    nothing = tmp_path / "nothing.json"
    nothing.write_text("{}")
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, str(nothing))
    with pytest.raises(DeviceError, match="no driver"):
        Library.default().devices("vulkan")


def test_description(tmp_path):
    (listed,) = Library.default().devices("vulkan")
    with CompiledModel(sum_plan().write(tmp_path / "sum.moss"), allow_native=True) as model:
        device = model.device
    assert {key: device[key] for key in listed} == listed
    assert set(device) - set(listed) == {"build_s", "n_built", "n_cached", "upload_s"}
    keys = "name type vendor driver api memory_bytes max_buffer_bytes local_bytes max_block features"
    assert list(listed) == keys.split()
    assert listed["type"] in ("cpu", "gpu", "accelerator")
    assert re.fullmatch(r"Vulkan 1\.\d", listed["api"])
    for key in ("memory_bytes", "max_buffer_bytes", "local_bytes", "max_block"):
        assert int(listed[key]) > 0


KINDS = (
    "cpu:Slow One",
    "other:Odd Two",
    "virtual:Cloud Three",
    "integrated:Chip Four",
    "gpu:Card Five",
    "gpu:Card Six",
)


@pytest.mark.parametrize(
    ("n", "wanted", "expected"),
    [
        (6, "", "Card Five"),
        (4, "", "Chip Four"),
        (3, "", "Cloud Three"),
        (2, "", "Odd Two"),
        (1, "", "Slow One"),
        (6, "six", "Card Six"),
        (6, "CHIP", "Chip Four"),
        (3, "o", "Cloud Three"),
    ],
)
def test_choice(fake_vulkan, tmp_path, n, wanted, expected):
    fake_vulkan("devices=" + ",".join(KINDS[:n]))
    with CompiledModel(sum_plan().write(tmp_path / "sum.moss"), allow_native=True, device=wanted) as model:
        assert model.device["name"] == expected


def test_unknown_name(fake_vulkan, tmp_path):
    fake_vulkan("devices=" + ",".join(KINDS))
    with pytest.raises(DeviceError, match="no Vulkan device is called seven; there are: Slow One, Odd Two, Cloud Thr"):
        CompiledModel(sum_plan().write(tmp_path / "sum.moss"), allow_native=True, device="seven")
    types = [device["type"] for device in Library.default().devices("vulkan")]
    assert types == ["cpu", "accelerator", "gpu", "gpu", "gpu", "gpu"]


def test_vulkan_1_0_is_too_old(fake_vulkan, tmp_path):
    fake_vulkan("api=0")
    for call in (lambda: Library.default().devices("vulkan"), lambda: check_works(tmp_path / "sum.moss")):
        with pytest.raises(DeviceError, match=r"Vulkan 1\.1"):
            call()


# ---- features

HALF = "GL_EXT_shader_16bit_storage", "GL_EXT_shader_explicit_arithmetic_types_float16"
BYTE = "GL_EXT_shader_8bit_storage", "GL_EXT_shader_explicit_arithmetic_types_int8"
SHORT = "GL_EXT_shader_16bit_storage", "GL_EXT_shader_explicit_arithmetic_types_int16"
GROUP = "GL_KHR_shader_subgroup_basic", "GL_KHR_shader_subgroup_arithmetic", "GL_KHR_shader_subgroup_shuffle"
I = "uint i = gl_GlobalInvocationID.x;"  # noqa: E741

# what META has to name: extensions, declarations, body, numpy's type, and what becomes of x
FEATURES = {
    "shaderFloat16,storageBuffer16BitAccess": (
        HALF,
        [buffer(0, "x", kind="float16_t")],
        f"{I} x[i] = x[i] * x[i];",
        np.float16,
        lambda x: x * x,
    ),
    "storageBuffer16BitAccess": (
        HALF[:1],
        [buffer(0, "x", kind="float16_t")],
        f"{I} x[i] = float16_t(float(x[i]) + 1.0);",
        np.float16,
        lambda x: x + 1,
    ),
    "shaderInt8,storageBuffer8BitAccess": (
        BYTE,
        [buffer(0, "x", kind="int8_t")],
        f"{I} x[i] = x[i] * x[i];",
        np.int8,
        lambda x: x * x,
    ),
    "shaderInt16,storageBuffer16BitAccess": (
        SHORT,
        [buffer(0, "x", kind="int16_t")],
        f"{I} x[i] = x[i] * int16_t(3);",
        np.int16,
        lambda x: x * 3,
    ),
    "subgroup_basic,subgroup_arithmetic,subgroup_shuffle": (
        GROUP,
        [buffer(0, "x")],
        f"{I} float most = subgroupMax(x[i]); float next = subgroupShuffleXor(x[i], 1); x[i] = next + 0.0 * most;",
        np.float32,
        lambda x: x.reshape(-1, 2)[:, ::-1].reshape(-1),
    ),
}


def feature_plan(needs: str, features: str) -> Plan:
    extensions, declarations, body, dtype, _ = FEATURES[needs]
    module = kernel(64, declarations, body, extensions)
    size = 256 * np.dtype(dtype).itemsize
    return Plan({"k": Module(module, (BOTH,))}, {"x": (Region.STATE, 0, size)}, [("k", "x")], features=features)


@pytest.mark.parametrize("api", ["", "api=1"], ids=["newest", "1.1"])
@pytest.mark.parametrize("needs", FEATURES)
def test_features(fake_vulkan, tmp_path, needs, api):
    fake_vulkan(*filter(None, [api]))
    *_, dtype, expected = FEATURES[needs]
    plan, x = feature_plan(needs, needs), (np.arange(256) % 11).astype(dtype)
    with CompiledModel(plan.write(tmp_path / "k.moss"), allow_native=True) as model, model.session() as session:
        plan.put(session, "x", x)
        session.decode(0)
        assert np.array_equal(plan.get(session, "x", dtype), expected(x))


@pytest.mark.parametrize("needs", FEATURES)
def test_features_that_are_not_there(fake_vulkan, tmp_path, needs):
    fake_vulkan("features=0")
    with pytest.raises(ArtifactError, match=f"does not have: {needs.replace(',', ', ')}$"):
        CompiledModel(feature_plan(needs, needs).write(tmp_path / "k.moss"), allow_native=True)


def test_features_through_extensions(fake_vulkan, tmp_path):
    fake_vulkan("api=1", "hide=VK_KHR_shader_float16_int8,VK_KHR_8bit_storage")
    features = "shaderFloat16,nonsense,,storageBuffer16BitAccess,shaderInt8,storageBuffer8BitAccess"
    with pytest.raises(ArtifactError, match=r"not have: shaderFloat16, nonsense, shaderInt8, storageBuffer8BitAccess$"):
        CompiledModel(sum_plan(features=features).write(tmp_path / "sum.moss"), allow_native=True)
    check_works(tmp_path / "sum.moss")


@pytest.mark.parametrize("needs", FEATURES)
def test_modules_need_what_meta_names(tmp_path, needs):
    first, *rest = needs.split(",")
    with pytest.raises(ArtifactError, match=f"kernel k: .*META `features` does not name {first}"):
        CompiledModel(feature_plan(needs, ",".join(rest)).write(tmp_path / "k.moss"), allow_native=True)


def test_meta_without_features(tmp_path):
    plan = sum_plan()
    meta = {"driver": "vulkan"}
    plan.file = type(plan.file)(**{**vars(plan.file), "meta": meta})
    with pytest.raises(ArtifactError, match="`features`"):
        CompiledModel(plan.write(tmp_path / "sum.moss"), allow_native=True)


# ---- limits


@pytest.mark.parametrize(
    ("limit", "match"),
    [
        ("threads=255", r"kernel reverse has groups of 256 threads, .* at most 255"),
        ("dim=128", r"kernel reverse has groups of 256 threads in dimension 0, .* at most 128"),
        ("local=1023", r"kernel reverse needs 1024 bytes of local memory, .* has 1023"),
        ("buffers=2", r"kernel add has 3 buffers, .* at most 2"),
        ("groups=3", r"step add has 4 groups in dimension 0, .* at most 3"),
        ("max_range=1020", r"buffer a has 1024 bytes, .* at most 1020"),
        ("heap=6143", r"0 bytes of weights and 6144 for a session, .* has 6143"),
    ],
)
def test_limits(fake_vulkan, tmp_path, limit, match):
    name, value = limit.split("=")
    plan = sum_plan()
    fake_vulkan(f"limit:{limit}")
    with pytest.raises(ArtifactError, match=match):
        CompiledModel(plan.write(tmp_path / "sum.moss"), allow_native=True)
    fake_vulkan(f"limit:{name}={int(value) + (4 if name == 'max_range' else 128 if name == 'dim' else 1)}")
    check_works(tmp_path / "sum.moss")


def test_a_buffer_larger_than_an_allocation(fake_vulkan, tmp_path):
    large = {**SUM, "large": (Region.ARENA, 4096, 70000)}
    codes, steps = {"scale": toy("scale")}, [("scale", "sum")]
    fake_vulkan("limit:max_allocation=65536")
    with pytest.raises(ArtifactError, match="buffer large has 70000 bytes, the device allows at most 65536"):
        CompiledModel(Plan(codes, large, steps).write(tmp_path / "large.moss"), allow_native=True)


def test_drivers_may_round_a_buffer_up(fake_vulkan, tmp_path):
    plan = Plan({"scale": toy("scale")}, {"x": (Region.STATE, 0, 65796)}, [("scale", "x")])
    fake_vulkan("limit:max_allocation=65800")
    with pytest.raises(ArtifactError, match="buffer x has 65796 bytes, the device allows at most 65536"):
        CompiledModel(plan.write(tmp_path / "x.moss"), allow_native=True)


def test_a_buffer_without_bytes(tmp_path):
    plan = Plan({"scale": toy("scale")}, {"x": (Region.STATE, 0, 0)}, [("scale", "x")])
    with pytest.raises(ArtifactError, match="step scale: argument 0 has no bytes"):
        CompiledModel(plan.write(tmp_path / "x.moss"), allow_native=True)


def test_bandwidth_of_too_much(fake_vulkan, tmp_path):
    fake_vulkan("limit:max_allocation=1048576")
    with CompiledModel(sum_plan().write(tmp_path / "sum.moss"), allow_native=True) as model:
        assert model.bandwidth(1 << 20, 2) > 0
        with pytest.raises(UsageError, match=r"1048577 bytes, .* at most 1048576"):
            model.bandwidth((1 << 20) + 1, 2)


# ---- SPIR-V


def words(code: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(code) // 4}I", code))


def changed(code: bytes, at: int, value: int) -> bytes:
    all_words = words(code)
    all_words[at] = value
    return struct.pack(f"<{len(all_words)}I", *all_words)


def find(code: bytes, operation: int, operand: int = -1, which: int = 2) -> int:
    """Where the instruction stands, the one whose operand is this."""
    all_words, at = words(code), 5
    while all_words[at] & 0xFFFF != operation or operand not in (-1, all_words[at + which]):
        at += all_words[at] >> 16
    return at


ADD = kernel(*vulkan.KERNELS["add"]) if vulkan.unavailable() is None else b""
SET1 = [buffer(0, "a").replace("set = 0", "set = 1"), buffer(1, "b"), buffer(2, "sum")]


@functools.cache
def damaged() -> dict[str, tuple[bytes, str]]:
    if not ADD:
        return {}
    mode = find(ADD, 16)
    return {
        "text": (b"__kernel void add() {}  ", "no SPIR-V module"),
        "empty": (ADD[:16], "no SPIR-V module"),
        "half a word": (ADD[:-2], "no SPIR-V module"),
        "other byte order": (b"".join(ADD[i : i + 4][::-1] for i in range(0, len(ADD), 4)), "no SPIR-V module"),
        "cut": (ADD[:-4], "ends in the middle of a function"),
        "cut in an instruction": (ADD[: 4 * find(ADD, 54) + 8], "damaged: the instruction at word"),
        "no length": (changed(ADD, find(ADD, 54), 54), "damaged: the instruction at word"),
        "too long": (changed(ADD, find(ADD, 54), 54 | 0xFFFF << 16), "damaged: the instruction at word"),
        "version": (changed(ADD, 1, 0x00010400), "SPIR-V 1.4, expected at most 1.3"),
        "name": (changed(ADD, find(ADD, 15) + 3, 0x6E69616E), "entry point main"),
        "vertex": (changed(ADD, find(ADD, 15) + 1, 0), "entry point main"),
        "block": (changed(ADD, mode + 3, 32), "groups of 32 x 1 x 1 threads, the plan says 64 x 1 x 1"),
        "no block": (changed(ADD, mode + 2, 1), "no size of groups"),
        "binding": (changed(ADD, find(ADD, 71, 33) + 3, 3), "binding 3, the plan has 3 parameters"),
        "set": (kernel(64, SET1, "sum[0] = a[0] + b[0];"), "descriptor set 1"),
        "no function": (ADD[: 4 * find(ADD, 54)], "no function"),
        "capability": (changed(ADD, 6, 5345), "capability 5345, which this library does not switch on"),
    }


@pytest.mark.parametrize("case", damaged())
def test_damaged_modules(tmp_path, case):
    module, match = damaged()[case]
    codes = {"add": Module(module, (READ, READ, WRITTEN))}
    with pytest.raises(ArtifactError, match=f"kernel add: .*{match}"):
        CompiledModel(Plan(codes, SUM, [("add", "a", "b", "sum")]).write(tmp_path / "add.moss"), allow_native=True)


def test_modules_stand_at_words(tmp_path):
    plan = sum_plan()
    kernels = [type(k)(**{**vars(k), "code_offset": k.code_offset + 2}) for k in plan.file.kernels]
    plan.file = type(plan.file)(**{**vars(plan.file), "kernels": kernels, "code": b"\0\0" + plan.file.code})
    with pytest.raises(ArtifactError, match=r"kernel add: .* at 2 are no SPIR-V module"):
        CompiledModel(plan.write(tmp_path / "sum.moss"), allow_native=True)


# ---- the cache


def test_a_cache_of_another_device(tmp_path):
    path, folder = sum_plan().write(tmp_path / "sum.moss"), tmp_path / "cache"
    counts = []

    def load() -> None:
        with CompiledModel(path, allow_native=True, cache_dir=folder) as model:
            counts.append((model.device["n_built"], model.device["n_cached"]))

    load()
    (entry,) = folder.iterdir()
    load()
    whole = entry.read_bytes()
    header = struct.Struct("<8s16sQII")
    magic, key, _, _, reserved = header.unpack_from(whole)
    data = whole[header.size :]
    for at, changed_data in ((0, data[:20]), (0, b"\x1f" + data[1:]), (4, None), (8, None), (12, None), (31, None)):
        content = changed_data or data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        entry.write_bytes(header.pack(magic, key, len(content), zlib.crc32(content), reserved) + content)
        load()  # not this device's, or cut: built anew, and stored
        load()
    assert counts == [("3", "0"), ("0", "3")] * 7


# ---- calls that fail


RESULTS = re.findall(r"X\((\w+), VkResult", (RUNTIME / "vulkan_api.h").read_text())
# Not needed for a run, or (WaitForFences) nothing that can fail alone: a device that is lost has tests of its own.
UNNEEDED = ("GetMemoryHostPointerPropertiesEXT", "GetPipelineCacheData", "WaitForFences")


def use_everything(path: Path, cache_dir: Path) -> None:
    plan = sum_plan()
    with CompiledModel(plan.write(path), allow_native=True, cache_dir=cache_dir) as model, model.session() as session:
        check_sum(plan, session)
        session.profile(0, 1)
        session.save()
        model.bandwidth(4096, 1)


@pytest.mark.parametrize("name", [name for name in RESULTS if name not in UNNEEDED])
def test_a_call_that_fails(fake_vulkan, tmp_path, name):
    if os.environ.get(UNDER_LAYER) and name.startswith("Enumerate"):
        pytest.skip("the loader calls it before the driver does")
    fake_vulkan("memory=card", f"fail=vk{name}")
    with pytest.raises(MossnetError, match=f"vk{name}|no driver"):
        use_everything(tmp_path / "sum.moss", tmp_path / "cache")
    fake_vulkan("memory=card")
    use_everything(tmp_path / "sum.moss", tmp_path / "cache")
    calls = fake_vulkan.calls()
    assert calls.count("O") == calls.count("X")


@pytest.mark.parametrize("name", UNNEEDED[:2])
def test_a_call_that_may_fail(fake_vulkan, tmp_path, name):
    fake_vulkan(f"fail=vk{name}")
    use_everything(tmp_path / "sum.moss", tmp_path / "cache")


@pytest.mark.parametrize("memory", ["card", "phone"])
def test_no_memory_left(fake_vulkan, tmp_path, memory):
    failed = 0
    for n in range(1, 20):
        fake_vulkan(f"memory={memory}", f"fail_allocation={n}")
        try:
            use_everything(tmp_path / "sum.moss", tmp_path / "cache")
            break
        except MossnetError as error:
            assert "the device has no memory left" in str(error), error
            failed += 1
    # The three regions of a session and two buffers that are copied; on a card, what copies go through.
    assert failed == 5 + (memory == "card")
    calls = fake_vulkan.calls()
    assert calls.count("O") == calls.count("X") > failed


@pytest.mark.parametrize(("memory", "kind"), [("phone", 0), ("window", 0), ("card", 2)])
def test_memory_of_the_next_best_kind(fake_vulkan, tmp_path, memory, kind):
    """A card's memory without its window, a host's that is coherent but not cached, ..."""
    kind = 1 if memory == "window" else kind
    fake_vulkan(f"memory={memory}", f"fail_type={kind}")
    use_everything(tmp_path / "sum.moss", tmp_path / "cache")
