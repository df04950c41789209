"""An OpenSSH server on loopback with keys and settings of its own, and an `ssh` that knows it as the host `box`."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
HOST = "box"


@dataclass
class Server:
    """`bin` goes to the front of PATH; `home` is where the server's users keep their caches."""

    bin: Path
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def folder(self) -> Path:
        """Where mossnet-tg puts things."""
        return self.home / "mossnet-tg"


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text().strip()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _require() -> None:
    for program in ("ssh", "ssh-keygen"):
        if not shutil.which(program):
            pytest.skip(f"no {program}: apt install openssh-client")
    if SSHD is None:
        pytest.skip("no sshd: apt install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it, and the system's makes it at boot


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Skips the test where there is no OpenSSH."""
    _require()
    port, user = free_port(), getpass.getuser()
    host_key, user_key = _key(folder / "host_key"), _key(folder / "user_key")
    home, programs = folder / "cache", folder / "bin"
    (folder / "authorized_keys").write_text(f"{user_key}\n")
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile {folder}/sshd.pid\n"
        f"UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f"SetEnv XDG_CACHE_HOME={home}\n"
    )
    (folder / "ssh_config").write_text(
        f"Host {HOST}\n HostName 127.0.0.1\n Port {port}\n User {user}\n IdentityFile {folder}/user_key\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n GlobalKnownHostsFile /dev/null\n"
    )
    programs.mkdir()
    wrapper = programs / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    log = folder / "sshd.log"
    assert SSHD is not None
    process = subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config", "-E", log], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"sshd does not start: {log.read_text() if log.exists() else ''}")
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield Server(programs, home, process)
    finally:
        process.terminate()
        process.wait()
