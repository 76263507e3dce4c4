"""The seccomp filter: it denies system calls to all that a function runs.

The filter denies calls that no function needs, that reach beyond the sandbox's namespaces, or that open large parts of
the kernel. The template loads it before it forks a child; children and cleaners inherit it. Each child then loads a
second, small one, whose rules depend on its user id and on the isolation. The kernel applies both.

Denied calls fail with EPERM. There are three exceptions, for which programs have a fallback or expect success:
1. ENOSYS for `clone3` and `timer_create`, whose arguments are in memory that a filter can't read (the C library then
   uses `clone`, and programs other timers), for the kernel's asynchronous I/O, and for calls that are newer than our
   list.
2. EAFNOSUPPORT and EPROTONOSUPPORT for kinds of sockets.
3. Setting RLIMIT_CORE seems to succeed and does nothing.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import NamedTuple

from .bpf import Instruction, allow, argument_has_bit, argument_in, argument_is_null, program, refuse
from .linux import system_call
from .syscalls import LAST, NUMBERS

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SET_MODE_FILTER, _FLAG_SPEC_ALLOW = 1, 4

_DENIED = (
    # Namespaces: a new user namespace gives all capabilities inside it.
    "unshare", "setns",
    # Making mounts and listing them.
    "mount", "umount2", "pivot_root", "chroot", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "statmount", "listmount", "swapon", "swapoff",
    # Keyrings belong to a uid, and a later worker may get the same uid.
    "add_key", "request_key", "keyctl",
    # Large interfaces with many past vulnerabilities.
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "vmsplice",
    # Watching files. The number of watches is limited for each user, and some limits are for the whole host.
    "fanotify_init", "fanotify_mark", "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
    # Other processes' memory and descriptors.
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp", "pidfd_getfd",
    # Objects that outlive their process, and memory that no limit counts.
    "shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv",
    "msgctl", "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr", "memfd_secret",
    # Calls that affect the whole machine. `sync` makes all of its file systems write.
    "quotactl", "quotactl_fd", "sync", "syncfs", "kexec_load", "kexec_file_load", "create_module", "init_module",
    "finit_module", "delete_module", "get_kernel_syms", "query_module", "reboot", "acct", "syslog", "settimeofday",
    "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "vhangup", "iopl", "ioperm",
    # Files by handle instead of by path.
    "name_to_handle_at", "open_by_handle_at",
    # Placement of memory, and contents of the page cache, which tenants share.
    "migrate_pages", "move_pages", "mbind", "set_mempolicy", "get_mempolicy", "set_mempolicy_home_node", "cachestat",
    # Security modules.
    "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules",
    # Obsolete.
    "modify_ldt", "uselib", "ustat", "sysfs", "_sysctl", "nfsservctl", "lookup_dcookie", "getpmsg", "putpmsg",
    "afs_syscall", "tuxcall", "security", "vserver",
)  # fmt: skip
# These answer ENOSYS. Asynchronous I/O (`io_*`) has one limit for the whole host; libraries try `io_setup` first, and
# have a fallback. Timers of `timer_create` can send SIGCONT, which wakes a process that is stopped between calls.
_UNSUPPORTED = (
    "clone3", "timer_create",
    "io_setup", "io_destroy", "io_getevents", "io_submit", "io_cancel", "io_pgetevents",
)  # fmt: skip

# All CLONE_NEW* flags; and CLONE_PARENT, which makes a process a child of a process that does not expect it.
_CLONE_FLAGS = 0x7E020000 | 0x8000
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCKET_TYPES, _SOCKET_TYPE_MASK = (1, 2), 0xF  # SOCK_STREAM, SOCK_DGRAM
_SOCKET_PROTOCOLS = (0, 1, 6, 17, 58)  # the type's default, ICMP, TCP, UDP, ICMPv6; others load kernel modules
_SOL_SOCKET, _IPPROTO_TCP = 1, 6
# SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF and _EBPF: programs that the kernel compiles.
_SOCKET_OPTIONS = (26, 50, 51, 52)
_TCP_OPTIONS = (31,)  # TCP_ULP: runs other protocols in the kernel
# F_SETLEASE: other processes that open the file wait for up to 45 s. Where the service runs as an ordinary user,
# functions own the interpreter's files. F_NOTIFY: for the same reason as inotify.
_FCNTL_COMMANDS = (1024, 1026)
_MAP_HUGETLB, _MFD_HUGETLB = 0x40000, 0x4  # the host's reserved large pages, which no limit of memory counts
# A function can choose a signal that the kernel sends later: when a child or the parent ends (clone, PR_SET_PDEATHSIG),
# or when a connection is ready or times out (F_SETSIG). SIGCONT would wake a function that is stopped between calls.
# SIGKILL would end one of its stopped processes. The kernel may then send SIGCONT to the process group of that
# process's children.
_SIGKILL, _SIGCONT, _EXIT_SIGNAL, _F_SETSIG, _PR_SET_PDEATHSIG = 9, 18, 0xFF, 10, 1
_RLIMIT_CORE = 4  # must stay at 1, with which the kernel does not start the host's handler of core dumps (`core(5)`)
_PRCTL_OPTIONS = (62,)  # PR_SCHED_CORE, with which a process blocks a core's other thread
_PR_SET_SECCOMP = 22
_IOCTL_REQUESTS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX: input of terminals; TIOCSETD, which loads modules
_PERSONALITY_QUERY = 0xFFFFFFFF
_O_NOTIFICATION_PIPE = 0x80
_SCHEDULING = ("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")  # the first word is a pid
_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1


class ChangeRule(NamedTuple):
    """Which processes' limits, processors and priorities a child and its processes may change.

    Attributes:
        pids: ids of processes; 0 is the caller.
        allowed: True: only these processes may be changed. False: all but these, as far as the kernel allows.
    """

    pids: tuple[int, ...]
    allowed: bool


def _calls(machine: str) -> dict[int, list[Instruction]]:
    numbers = NUMBERS[machine]
    denied = refuse(errno.EPERM)
    rules = {numbers[name]: denied for name in _DENIED if name in numbers}
    rules.update((numbers[name], refuse(errno.ENOSYS)) for name in _UNSUPPORTED)
    protocol = argument_in(2, _SOCKET_PROTOCOLS, allow(), refuse(errno.EPROTONOSUPPORT))
    kind = argument_in(1, _SOCKET_TYPES, protocol, refuse(errno.EPROTONOSUPPORT), _SOCKET_TYPE_MASK)
    internet = argument_in(0, (_AF_INET, _AF_INET6), kind, refuse(errno.EAFNOSUPPORT))
    ignored = refuse(0)
    core = argument_is_null(2, allow(), argument_is_null(3, ignored, denied))
    tcp = argument_in(2, _TCP_OPTIONS, denied, allow())
    wakes = argument_in(0, (_SIGCONT,), denied, allow(), _EXIT_SIGNAL)
    command = argument_in(1, (_F_SETSIG,), argument_in(2, (_SIGKILL, _SIGCONT), denied, allow()), allow())
    option = argument_in(0, (_PR_SET_PDEATHSIG,), argument_in(1, (_SIGCONT,), denied, allow()), allow())
    by_argument = {
        "clone": argument_has_bit(0, _CLONE_FLAGS, denied, wakes),
        "socket": argument_in(0, (_AF_UNIX,), allow(), internet),
        "setsockopt": argument_in(
            1,
            (_SOL_SOCKET,),
            argument_in(2, _SOCKET_OPTIONS, denied, allow()),
            argument_in(1, (_IPPROTO_TCP,), tcp, allow()),
        ),
        "fcntl": argument_in(1, _FCNTL_COMMANDS, denied, command),
        "mmap": argument_has_bit(3, _MAP_HUGETLB, denied, allow()),
        "memfd_create": argument_has_bit(1, _MFD_HUGETLB, denied, allow()),
        "setrlimit": argument_in(0, (_RLIMIT_CORE,), ignored, allow()),
        "socketpair": argument_in(0, (_AF_UNIX,), allow(), refuse(errno.EAFNOSUPPORT)),
        "prctl": argument_in(0, _PRCTL_OPTIONS, denied, option),
        "ioctl": argument_in(1, _IOCTL_REQUESTS, denied, allow()),
        "personality": argument_in(0, (_PERSONALITY_QUERY,), allow(), denied),
        "pipe2": argument_has_bit(1, _O_NOTIFICATION_PIPE, denied, allow()),
        "prlimit64": argument_in(1, (_RLIMIT_CORE,), core, allow()),
    }
    rules.update((numbers[name], block) for name, block in by_argument.items())
    return rules


def _calls_of_child(
    machine: str, change_rule: ChangeRule | None, has_memory_group: bool
) -> dict[int, list[Instruction]]:
    denied = refuse(errno.EPERM)

    def of_pid(index: int, of_others: list[Instruction]) -> list[Instruction]:
        assert change_rule is not None
        named, unnamed = (allow(), of_others) if change_rule.allowed else (of_others, allow())
        return argument_in(index, change_rule.pids, named, unnamed)

    # A function must not load a filter of its own.
    rules = {"seccomp": denied, "prctl": argument_in(0, (_PR_SET_SECCOMP,), denied, allow())}
    if not has_memory_group:
        rules["memfd_create"] = refuse(errno.ENOSYS)  # a file in memory is in no process, so nothing would limit it
    if change_rule is not None:
        rules.update(dict.fromkeys(_SCHEDULING, of_pid(0, denied)))
        rules["prlimit64"] = of_pid(0, argument_is_null(2, allow(), denied))
        # Process groups and users may hold other processes.
        rules["setpriority"] = argument_in(0, (_PRIO_PROCESS,), of_pid(1, denied), denied)
        rules["ioprio_set"] = argument_in(0, (_IOPRIO_WHO_PROCESS,), of_pid(1, denied), denied)
    return {NUMBERS[machine][name]: block for name, block in rules.items()}


def assemble(machine: str) -> bytes:
    """The filter's program for an architecture, as `os.uname().machine` names it."""
    # 32-bit programs have other numbers than those in the list. The numbers of x32 are above the last known one.
    missing = refuse(errno.ENOSYS)
    return program(_ARCHITECTURES[machine], missing, _calls(machine), LAST, missing)


@functools.lru_cache(maxsize=8)
def assemble_for_child(machine: str, change_rule: ChangeRule | None, has_memory_group: bool) -> bytes:
    """The child's own filter; the arguments as `load_for_child` takes them."""
    missing = refuse(errno.ENOSYS)
    rules = _calls_of_child(machine, change_rule, has_memory_group)
    return program(_ARCHITECTURES[machine], missing, rules, LAST, missing)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


_machine = os.uname().machine
_program = assemble(_machine) if _machine in _ARCHITECTURES else b""
if _program:
    # The programs for the first children of a zygote's workers, not to be assembled after a fork. The supervisor has
    # the pid 1, the template 2 and the child 3.
    for _change_rule in (None, ChangeRule((1, 2), False), ChangeRule((1, 2, 3), False), ChangeRule((3,), False)):
        for _has_memory_group in (False, True):
            assemble_for_child(_machine, _change_rule, _has_memory_group)


def load() -> None:
    """Load the filter into this process and all that it forks, for good. `no_new_privs` must be set.

    Raises:
        OSError: the kernel refuses it.
    """
    if not _program:
        raise OSError(errno.ENOSYS, f"no filter for {_machine}")
    _load(_program)


def load_for_child(change_rule: ChangeRule | None, *, has_memory_group: bool) -> None:
    """Load the child's own filter, after `load`.

    Args:
        change_rule: what the child and its processes may change. None: all that the kernel allows, because no process
            of the platform has the child's uid.
        has_memory_group: whether memory that belongs to no process is counted. If not, the child gets none.

    Raises:
        OSError: the kernel refuses it.
    """
    _load(assemble_for_child(_machine, change_rule, has_memory_group))


def _load(assembled: bytes) -> None:
    filled = _Program(len(assembled) // 8, assembled)
    number = NUMBERS[_machine]["seccomp"]
    try:
        # Without this flag, kernels before 5.16 slow the whole process down against Spectre.
        system_call(number, _SET_MODE_FILTER, _FLAG_SPEC_ALLOW, ctypes.byref(filled))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        system_call(number, _SET_MODE_FILTER, 0, ctypes.byref(filled))  # before 4.17 the flag was unknown
