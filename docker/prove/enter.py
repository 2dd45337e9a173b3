"""Become a process of a container: `python enter.py SPEC.json`, in namespaces of its own.

SPEC: `root` folder; `mounts` [[kind, target, options or source], ...] in order; `loopback` whether to bring
`lo` up; `cwd`; `user` [uid, gid]; `bound` whether to drop every capability and forbid new privileges; `env`;
`argv`. The order matters: mounts need root, and nothing can be mounted after it is given up.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def main(spec_path: str) -> None:
    """Never returns: the process becomes `argv`."""
    spec: dict[str, Any] = json.loads(Path(spec_path).read_text())
    root = Path(spec["root"])
    for kind, target, detail in spec["mounts"]:
        _mount(root, kind, target, detail)
    if spec["loopback"]:
        _loopback_up()
    os.chroot(root)
    os.chdir(spec["cwd"])
    if spec["bound"]:
        _bound()
    uid, gid = spec["user"]
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    os.umask(0o022)
    argv = spec["argv"]
    os.environ.clear()
    os.environ.update(spec["env"])  # execvpe looks argv[0] up on this PATH
    os.execvpe(argv[0], argv, dict(os.environ))


def _mount(root: Path, kind: str, target: str, detail: str) -> None:
    where = root / target.lstrip("/")
    if kind == "devices":
        _run("mount", "-t", "tmpfs", "-o", "mode=755,nosuid,size=64k", "tmpfs", where)
        for name in _DEVICES:
            (where / name).touch()
            _run("mount", "--bind", f"/dev/{name}", where / name)
        (where / "shm").mkdir()
        for name, link in (
            ("fd", "/proc/self/fd"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ):
            (where / name).symlink_to(link)
    elif kind == "proc":
        _run("mount", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc", where)
    elif kind == "tmpfs":
        _run("mount", "-t", "tmpfs", "-o", detail, "tmpfs", where)
    elif kind in {"bind", "bind-read-only", "lend"}:
        if kind == "lend" and not (where.exists() and Path(detail).exists()):
            return
        _run("mount", "--bind", detail, where)
        if kind == "bind-read-only":
            _run("mount", "-o", "remount,bind,ro", where)
    else:
        raise ValueError(f"unknown kind of mount {kind!r}")


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        flags = struct.unpack("16sh", fcntl.ioctl(link, _SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))[1]
        fcntl.ioctl(link, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))


def _bound() -> None:
    """What `cap_drop: [ALL]` and `no-new-privileges` do: no capability comes back, not even by setuid."""
    libc = ctypes.CDLL(None, use_errno=True)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"cannot drop capability {capability}")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot set no_new_privs")


if __name__ == "__main__":
    main(sys.argv[1])
