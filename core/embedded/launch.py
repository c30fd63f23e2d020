"""Become the given program, as a child that dies with its parent and, if requested, as another user.

    python -I -S launch.py --parent PID --death-signal N [--uid N --gid N] [--reach PATH]... -- program args

This runs between fork and exec instead of Popen's ``preexec_fn``, which is not safe in a parent with threads. It is
run by path and imports the standard library only, so that it works without everything else. Linux only, like
PostgreSQL's wheel.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import warnings  # noqa: F401 - os.execvp imports it, when the new user may no longer read this Python's files
from collections.abc import Sequence
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAP_SETPCAP = 8

# Python ignores SIGPIPE, and a shell's `&` ignores SIGINT: a program we start must not inherit that.
_SIGNALS_TO_RESET = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGPIPE", "SIGXFSZ", "SIGCHLD")

CANNOT_LAUNCH = 126


class LaunchError(Exception):
    """The program cannot be started as requested; the message is one line for the operator."""


def die_with_parent(parent_pid: int, death_signal: int = signal.SIGKILL) -> None:
    """Have the kernel send ``death_signal`` to this process when the parent's thread that forked it ends.

    Changing the user clears this, so call it last.
    """
    _prctl(_PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != parent_pid:  # It died before the request, so no signal would come.
        os._exit(CANNOT_LAUNCH)


def become(uid: int, gid: int, reach: Sequence[str] = ()) -> None:
    """Drop from root to ``uid`` permanently, keeping a single capability if ``reach`` needs it.

    ``reach`` names what the program must be able to open. Where a parent folder is closed to this user (a clone below
    /root, ``mktemp -d``), the right to read and search regardless of permissions is kept, so that the folder's mode
    need not change. Raises LaunchError where root itself lacks that right.
    """
    held = _permitted_capabilities()
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # access(2) checks the real user's rights without capabilities, which is the question here.
    shut_out = [path for path in reach if not os.access(path, os.R_OK | os.X_OK)]
    if not shut_out:
        _set_capabilities(0)
        return
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if held & (1 << capability) and held & (1 << _CAP_SETPCAP):
            _keep(capability)
            return
    raise LaunchError(
        f"user id {uid} cannot enter {shut_out[0]} and this root may not grant it: set DARKROOM_VAR to a "
        "folder that user can reach (and install there too), set DARKROOM_POSTGRES_USER, or set DATABASE_URL"
    )


def _keep(capability: int) -> None:
    """Keep one capability over exec, and let it count in access(2) as it does in open(2).

    access(2) ignores the capabilities of a user that is not root unless this secure bit is set; initdb and postgres
    look for their binaries with it.
    """
    _set_capabilities(1 << capability | 1 << _CAP_SETPCAP)
    _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    _set_capabilities(1 << capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise LaunchError(f"{what}: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, *values: int) -> None:
    padded = (*values, 0, 0, 0, 0)[:4]
    _checked(_libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)), f"prctl {option}")


def _permitted_capabilities() -> int:
    """The low 32 of our permitted capabilities; both that matter are among them."""
    data = (_Data * 2)()
    _checked(_libc.capget(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), data), "capget")
    return int(data[0].permitted)


def _set_capabilities(mask: int) -> None:
    data = (_Data * 2)(_Data(mask, mask, mask), _Data(0, 0, 0))
    _checked(_libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), data), "capset")


def _reset_signals() -> None:
    for name in _SIGNALS_TO_RESET:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, default=int(signal.SIGKILL))
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--reach", action="append", default=[])
    parser.add_argument("program", nargs="+")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> NoReturn:
    asked = _parsed(arguments)
    try:
        if asked.uid is not None:
            become(asked.uid, asked.gid, asked.reach)
        die_with_parent(asked.parent, asked.death_signal)
        _reset_signals()
        os.execvp(asked.program[0], asked.program)  # noqa: S606 - the given program
    except (OSError, LaunchError) as error:
        sys.stderr.write(f"cannot start {os.path.basename(asked.program[0])}: {error}\n")  # noqa: PTH119
    sys.exit(CANNOT_LAUNCH)


if __name__ == "__main__":
    main(sys.argv[1:])
