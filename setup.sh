#!/bin/sh
# Makes everything mossnet-tg needs, then runs a command in it:
#
#   sh setup.sh mossnet-tg generate "def fibonacci(n):"
#   sh setup.sh --test pytest
#
# What is missing of Debian's packages is installed (as root or through sudo), mossnet-tg and what it needs from PyPI goes
# into .venv; --test brings what the tests need too. A second run finds it all there.
set -eu
cd "$(dirname "$0")"

extras=
wanted="python3:python3 venv:python3-venv cc:build-essential"
if [ "${1-}" = --test ]; then
  extras='[dev]'
  wanted="$wanted aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu qemu-aarch64-static:qemu-user-static arm64-libc:libc6-dev-arm64-cross"
  # OpenCL and Vulkan on the processor, and what checks code for them.
  wanted="$wanted libpocl.so:pocl-opencl-icd libOpenCL.so:ocl-icd-libopencl1 CL/cl.h:opencl-c-headers"
  wanted="$wanted lavapipe:mesa-vulkan-drivers libvulkan.so:libvulkan1 vulkan/vulkan.h:libvulkan-dev"
  # Other machines, on loopback.
  wanted="$wanted sshd:openssh-server adb:adb"
  wanted="$wanted validation:vulkan-validationlayers spirv-val:spirv-tools glslangValidator:glslang-tools clang:clang"
  # Who builds what `compile` puts beside a model, and looks for leaks in it.
  wanted="$wanted cmake:cmake pkg-config:pkg-config valgrind:valgrind"
  # With clang: programs for Android, where no NDK is.
  wanted="$wanted ld.lld:lld"
  # The classes for Android, and a virtual machine to try them on.
  wanted="$wanted javac:default-jdk-headless"
  shift
fi
python=${PYTHON:-python3}

has() {
  case $1 in
    venv) "$python" -c 'import ensurepip, venv' 2>/dev/null ;;
    cc) command -v "${CC:-cc}" >/dev/null && echo '#include <stdio.h>' | "${CC:-cc}" -E -o /dev/null - 2>/dev/null ;;
    arm64-libc) [ -e /usr/aarch64-linux-gnu/lib/libc.a ] ;;
    lavapipe) ls /usr/share/vulkan/icd.d/lvp_icd*.json >/dev/null 2>&1 ;;
    sshd) command -v sshd >/dev/null || [ -x /usr/sbin/sshd ] ;;
    validation) ls /usr/share/vulkan/explicit_layer.d/*validation*.json >/dev/null 2>&1 ;;
    *.so) /sbin/ldconfig -p | grep -q "$1" ;;
    *.h) [ -e "/usr/include/$1" ] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

missing=
for row in $wanted; do
  has "${row%%:*}" || missing="$missing ${row##*:}"
done
if [ -n "$missing" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "error: missing:$missing (Debian's names); install them and run this again" >&2
    exit 1
  fi
  root=
  [ "$(id -u)" = 0 ] || root=sudo
  $root apt-get update -q >&2
  # shellcheck disable=SC2086 # a list of package names
  DEBIAN_FRONTEND=noninteractive $root apt-get install -y -q --no-install-recommends $missing >&2
fi

[ -x .venv/bin/pip ] || "$python" -m venv .venv

# For the tests of Android's programs, which run over musl: the one file of a package for arm64, taken apart beside
# Python, so that the system itself stays of one architecture.
unpack_musl() (
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial"
  : >"$folder/status"
  cat >"$folder/apt.conf" <<-EOF
	APT::Architecture "arm64";
	APT::Architectures { "arm64"; };
	APT::Sandbox::User "root";
	Dir::State "$folder/state";
	Dir::State::status "$folder/status";
	Dir::Cache "$folder/cache";
	EOF
  APT_CONFIG=$folder/apt.conf
  export APT_CONFIG
  cd "$folder"
  apt-get update -q >&2 || true # a source that has nothing for arm64 is no failure
  apt-get download -q musl >&2
  dpkg-deb -x musl_*_arm64.deb "$OLDPWD/.venv/arm64"
)
if [ -n "$extras" ] && [ ! -e .venv/arm64/lib/aarch64-linux-musl/libc.so ]; then
  unpack_musl || echo "setup.sh: no musl for arm64; the tests that need it are skipped" >&2
fi
# What was installed from: the sources that the package is built of. With the tests' extras it serves both uses.
stamp=$(cat pyproject.toml CMakeLists.txt targets/runtime/*.[ch] | cksum)
case $(cat .venv/installed 2>/dev/null || true) in
  "$stamp [dev]" | "$stamp $extras") ;;
  *)
    .venv/bin/python -m pip install -q --disable-pip-version-check -e ".$extras" >&2
    echo "$stamp $extras" >.venv/installed
    ;;
esac
PATH=$PWD/.venv/bin:$PATH
export PATH
exec "$@"
