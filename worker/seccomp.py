"""Which system calls the decoding child may make once it is ready: a filter in classic BPF, as seccomp(2) takes it.

What is not on the list fails with EPERM (or ENOSYS, where it is newer than the list, so that libraries fall back), as
if the kernel refused it. Allowed is what computing takes: memory that is not executable, threads, clocks, and reading
and writing what is open. Nothing opens, names, connects, starts or traces anything.

The filter needs neither privileges nor a library. It is written for x86-64 and 64-bit ARM.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable

SET_MODE_FILTER, TSYNC = 1, 1  # of seccomp(2): for all threads of the process
NEWER = 424  # system calls from this number on have the same number everywhere, and libraries do without them

# Of struct seccomp_data: where what lies, in bytes.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
# Of BPF: load a word, jump if equal, greater or equal, or if any bit is set, return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}

# Numbers on x86-64 and on 64-bit ARM, which has fewer: there the number is that of the call which does the same.
_ALWAYS: dict[str, tuple[int, int]] = {
    **{"read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67)},
    **{"preadv": (295, 69), "close": (3, 57), "lseek": (8, 62), "fstat": (5, 80), "dup": (32, 23)},
    **{"fadvise64": (221, 223), "poll": (7, 73), "ppoll": (271, 73), "select": (23, 72), "pselect6": (270, 72)},
    **{"recvmsg": (47, 212), "sendmsg": (46, 211), "recvfrom": (45, 207), "sendto": (44, 206)},
    **{"shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205), "getsockopt": (55, 209)},
    **{"munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233), "brk": (12, 214), "membarrier": (324, 283)},
    **{"futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "set_tid_address": (218, 96)},
    **{"rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132)},
    **{"exit": (60, 93), "exit_group": (231, 94), "restart_syscall": (219, 128), "sched_yield": (24, 124)},
    **{"nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113)},
    **{"clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, 113), "times": (100, 153)},
    **{"getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175)},
    **{"getgid": (104, 176), "getegid": (108, 177), "getrusage": (98, 165), "sysinfo": (99, 179), "uname": (63, 160)},
    **{"sched_getaffinity": (204, 123), "getcpu": (309, 168), "getrandom": (318, 278)},
}
_KILL, _TGKILL, _CLONE, _PRLIMIT = (62, 129), (234, 131), (56, 220), (302, 261)
_MMAP, _MPROTECT, _FCNTL, _IOCTL, _PRCTL = (9, 222), (10, 226), (72, 25), (16, 29), (157, 167)
_FSTATAT, _STATX = (262, 79), (332, 291)

_CLONE_THREAD, _PROT_EXEC, _AT_EMPTY_PATH, _PR_SET_NAME = 0x10000, 4, 0x1000, 15
_FCNTLS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
_IOCTLS = (0x5421, 0x5450, 0x5451, 0x5401)  # FIONBIO, FIONCLEX, FIOCLEX, TCGETS

# For a child that decodes on a GPU, whose driver opens devices as it goes: what it may not do even so.
_NEVER = {
    **{"execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117)},
    **{"process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"connect": (42, 203), "bind": (49, 200), "listen": (50, 201)},
}


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; jumps count the instructions that are left out."""
    return struct.pack("=HBBI", code, then, otherwise, value)


def _argument(index: int, high: bool = False) -> bytes:
    return _step(_LOAD, _ARGUMENTS + 8 * index + 4 * high)


_LET, _NO = _step(_RETURN, _ALLOW), _step(_RETURN, _REFUSE)


def _where(number: int, *steps: bytes) -> list[bytes]:
    """What is decided of one system call, by steps that end in a return."""
    return [_step(_EQUAL, number, 0, len(steps)), *steps]


def _one_of(number: int, index: int, values: Iterable[int]) -> list[bytes]:
    """A system call that may be made with these values of an argument only."""
    wanted = [part for value in values for part in (_step(_EQUAL, value, 0, 1), _LET)]
    return _where(number, _argument(index), *wanted, _NO)


def _if_any(number: int, index: int, bits: int, then: bytes, otherwise: bytes) -> list[bytes]:
    """A system call decided by whether an argument has one of these bits."""
    return _where(number, _argument(index), _step(_ANY_BIT, bits, 0, 1), then, otherwise)


def _allowed(place: int) -> list[bytes]:
    simple = dict.fromkeys(pair[place] for pair in _ALWAYS.values())
    program = [part for number in simple for part in _where(number, _LET)]
    for number in (_KILL[place], _TGKILL[place]):
        program += _one_of(number, 0, [os.getpid()])  # itself: how a process aborts
    program += _if_any(_CLONE[place], 0, _CLONE_THREAD, _LET, _NO)
    for number in (_MMAP[place], _MPROTECT[place]):
        program += _if_any(number, 2, _PROT_EXEC, _NO, _LET)
    program += _if_any(_FSTATAT[place], 3, _AT_EMPTY_PATH, _LET, _NO)
    program += _if_any(_STATX[place], 2, _AT_EMPTY_PATH, _LET, _NO)
    program += _one_of(_FCNTL[place], 1, _FCNTLS) + _one_of(_IOCTL[place], 1, _IOCTLS)
    program += _one_of(_PRCTL[place], 0, [_PR_SET_NAME])
    none = [_argument(2), _step(_EQUAL, 0, 0, 3), _argument(2, high=True), _step(_EQUAL, 0, 0, 1), _LET, _NO]
    program += _where(_PRLIMIT[place], *none)  # to look at a limit, not to set one
    return [*program, _step(_AT_LEAST, NEWER, 0, 1), _step(_RETURN, _UNKNOWN), _NO]


def program(machine: str, *, device: bool = False) -> bytes:
    """The filter for this process.

    Args:
        machine: as `platform.machine` names it.
        device: whether it must leave the driver of a GPU alone: it then forbids a few things and allows the rest.

    Raises:
        NotImplementedError: there is none for such a machine.
    """
    if machine not in _ARCHITECTURES:
        raise NotImplementedError(f"no list of system calls for {machine}")
    place = list(_ARCHITECTURES).index(machine)
    if device:
        decided = [part for pair in _NEVER.values() for part in _where(pair[place], _NO)] + [_LET]
    else:
        decided = _allowed(place)
    check = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, _ARCHITECTURES[machine], 1, 0), _NO, _step(_LOAD, _NUMBER)]
    if machine == "x86_64":
        check += [_step(_AT_LEAST, 1 << 30, 0, 1), _NO]  # the numbers of x32
    return b"".join([*check, *decided])


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def install(*, device: bool = False) -> None:
    """Filter the system calls of all threads of this process from now on; it must have `no_new_privs`.

    Args:
        device: as for `program`.

    Raises:
        NotImplementedError: there is no filter for such a machine.
        OSError: the kernel has no seccomp, or is not allowed to use it here.
    """
    if sys.platform != "linux":
        raise NotImplementedError("only Linux has it")
    machine = platform.machine()
    steps = program(machine, device=device)
    described = _Program(len(steps) // 8, steps)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SECCOMP[machine], SET_MODE_FILTER, TSYNC, ctypes.byref(described)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
