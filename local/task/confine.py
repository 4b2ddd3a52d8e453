"""Become another program, which can read and write only what it is allowed to.

Run by path, with the program's command line as its arguments and the rules as JSON on its standard
input, where the program finds nothing; it never returns. (An argument can have 128 KiB, and there
is no limit to how many paths the rules name.) The kernel's Landlock enforces the rules, for this
process and all that it starts, and needs no root
(https://docs.kernel.org/userspace-api/landlock.html). Where the kernel has no Landlock, or may not
use it, the program runs all the same: `supported` tells.

It is a program of its own, because the rules hold for good: a process cannot lift them again. It
imports nothing but the standard library, for a task waits for it at each start of a container.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import stat
import sys
from collections.abc import Iterable

# Numbers of system calls added since 2019 are the same on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIGKILL = 9

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_REFER = 1 << 13  # moving and linking between directories: version 2 of the interface
_TRUNCATE = 1 << 14  # version 3
_READ = _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE

_LIBC = ctypes.CDLL(None, use_errno=True)


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def supported() -> bool:
    """Tell whether this kernel has Landlock."""
    return _version() > 0


def _version() -> int:
    if platform.system() != "Linux":
        return 0
    version: int = _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    return max(version, 0)


def confine(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Let this process read what is below some paths and write what is below others, only.

    What may be written may be read as well. Programs may be started from everywhere. A link among
    the paths allows nothing: what it leads to has a path of its own.
    """
    version = _version()
    if not version:
        return
    write = _WRITE_FILE | _REMOVE_AND_MAKE
    if version >= 2:  # noqa: PLR2004 - the interface's version
        write |= _REFER
    if version >= 3:  # noqa: PLR2004 - the interface's version
        write |= _TRUNCATE
    attributes = _RulesetAttr(_READ | write)
    ruleset = _LIBC.syscall(
        _CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)), 0
    )
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for paths, access in ((readable, _READ), (writable, _READ | write)):
        for path in paths:
            _allow(ruleset, path, access)
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _LIBC.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # gone meanwhile
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISLNK(mode):
            return
        if not stat.S_ISDIR(mode):
            access &= _OF_FILES
        rule = _PathBeneathAttr(access, descriptor)
        if _LIBC.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0):
            raise OSError(ctypes.get_errno(), "landlock_add_rule", path)
    finally:
        os.close(descriptor)


def main() -> None:
    """Do it."""
    rules = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    command = sys.argv[1:]
    # It ends with whoever started it, however that ends.
    _LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != rules["parent"]:
        sys.exit(1)  # that has happened already
    # In the C locale Python sets LC_CTYPE, which nobody has asked for.
    for name in os.environ.keys() - rules["variables"]:
        del os.environ[name]
    confine(rules["readable"], rules["writable"])
    os.execvp(command[0], command)  # noqa: S606 - the point of this program


if __name__ == "__main__":
    main()
