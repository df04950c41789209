"""A phone as the real `adb` sees it: the daemon's end of the protocol, as far as `adb shell` goes, on loopback.

    python fake_adbd.py FOLDER [NAME=VALUE]...

FOLDER is what commands see as /data/local/tmp; they run with NAME=VALUE in their environment. Prints the port. Whoever
ends the process has unplugged the phone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import sys
from pathlib import Path

MAX_DATA = 1 << 18
BANNER = b"device::ro.product.name=fake;ro.product.model=Fake_Phone;ro.product.device=fake;features=shell_v2,cmd"


def command(name: bytes) -> int:
    return int.from_bytes(name, "little")


CNXN, OPEN, OKAY, CLSE, WRTE = map(command, (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE"))
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)  # ids of the shell protocol's packets


class Stream:
    """One service that the host opened."""

    def __init__(self, phone: Phone, local: int, remote: int) -> None:
        self.phone, self.local, self.remote = phone, local, remote
        self.came: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.acknowledged = asyncio.Event()
        self.is_open = True
        self._held = b""
        self._sending = asyncio.Lock()

    async def send(self, data: bytes) -> None:
        """Each piece waits until the host has taken it, as the protocol wants."""
        async with self._sending:
            for i in range(0, len(data), self.phone.max_data):
                self.acknowledged.clear()
                await self.phone.say(WRTE, self.local, self.remote, data[i : i + self.phone.max_data])
                await self.acknowledged.wait()
                if not self.is_open:
                    raise ConnectionError

    async def receive(self, n: int) -> bytes:
        """Exactly n bytes; EOFError when the host closes the stream."""
        while len(self._held) < n:
            data = await self.came.get()
            if data is None:
                raise EOFError
            self._held += data
        found, self._held = self._held[:n], self._held[n:]
        return found

    def over(self) -> None:
        """The other side has closed it."""
        self.is_open = False
        self.acknowledged.set()
        self.came.put_nowait(None)


class Phone:
    """A connection of the host's adb server."""

    def __init__(self, folder: Path, env: dict[str, str], r: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
        self.folder, self.env, self.reader, self.writer = folder, env, r, w
        self.streams: dict[int, Stream] = {}
        self.max_data = 4096
        self._n_streams = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def say(self, what: int, arg0: int, arg1: int, data: bytes = b"") -> None:
        header = struct.pack("<6I", what, arg0, arg1, len(data), sum(data) & 0xFFFFFFFF, what ^ 0xFFFFFFFF)
        self.writer.write(header + data)
        await self.writer.drain()

    async def serve(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                what, arg0, arg1, size, _, _ = struct.unpack("<6I", await self.reader.readexactly(24))
                await self.heard(what, arg0, arg1, await self.reader.readexactly(size))
        for stream in self.streams.values():
            stream.over()

    async def heard(self, what: int, arg0: int, arg1: int, data: bytes) -> None:
        stream = self.streams.get(arg1)
        if what == CNXN:
            self.max_data = min(arg1, MAX_DATA)
            await self.say(CNXN, 0x01000001, MAX_DATA, BANNER)
        elif what == OPEN:
            self._n_streams += 1
            stream = self.streams[self._n_streams] = Stream(self, self._n_streams, arg0)
            task = asyncio.create_task(self.open(stream, data.rstrip(b"\0").decode()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif what == OKAY and stream:
            stream.acknowledged.set()
        elif what == WRTE and stream:
            stream.came.put_nowait(data)
            await self.say(OKAY, stream.local, stream.remote)
        elif what == CLSE and stream:
            del self.streams[arg1]
            stream.over()

    async def open(self, stream: Stream, service: str) -> None:
        kind, _, line = service.partition(":")
        if kind.split(",")[0] != "shell" or "v2" not in kind.split(","):
            await self.say(CLSE, 0, stream.remote)
            return
        await self.say(OKAY, stream.local, stream.remote)
        with contextlib.suppress(EOFError, ConnectionError):
            await self.shell(stream, line)
        if stream.is_open:
            await self.say(CLSE, stream.local, stream.remote)

    def located(self, data: bytes) -> bytes:
        """What is said of /data/local/tmp is meant of the folder."""
        return data.replace(b"/data/local/tmp", os.fsencode(self.folder))

    async def shell(self, stream: Stream, line: str) -> None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", self.located(line.encode()).decode(), stdin=pipe, stdout=pipe, stderr=pipe,
            cwd=self.folder, env={**os.environ, **self.env}, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None

        async def forward(source: asyncio.StreamReader, packet: int) -> None:
            while data := await source.read(1 << 15):
                await stream.send(struct.pack("<BI", packet, len(data)) + data)

        async def feed(stdin: asyncio.StreamWriter) -> None:
            try:
                while True:
                    packet, size = struct.unpack("<BI", await stream.receive(5))
                    data = await stream.receive(size)
                    if packet == CLOSE_STDIN:
                        stdin.close()
                    elif packet == STDIN:
                        stdin.write(self.located(data))
                        await stdin.drain()
            except (EOFError, ConnectionError):  # the host is gone: hang up, as adbd does
                stdin.close()
                await asyncio.sleep(0.2)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGHUP)

        feeding = asyncio.create_task(feed(process.stdin))
        await asyncio.gather(forward(process.stdout, STDOUT), forward(process.stderr, STDERR))
        code = await process.wait()
        feeding.cancel()
        await stream.send(struct.pack("<BIB", EXIT, 1, code if code >= 0 else 128 - code))


async def main(folder: Path, env: dict[str, str]) -> None:
    server = await asyncio.start_server(lambda r, w: Phone(folder, env, r, w).serve(), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).resolve(), dict(pair.split("=", 1) for pair in sys.argv[2:])))
