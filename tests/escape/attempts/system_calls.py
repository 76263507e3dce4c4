"""System calls that no function needs, and that reach beyond the sandbox or into large parts of the kernel."""

from __future__ import annotations

from tests.escape.attempt import Attempt


def _call(name: str, what: str, before: str = "", *, in_child: bool = False, landlock: bool = False) -> Attempt:
    """An attempt that makes one system call.

    Args:
        name: the attempt's name.
        what: an expression that makes the call, and is true if it succeeds.
        before: statements that are executed first.
        in_child: whether a forked process makes the call, because it changes the process for good.
        landlock: whether Landlock stops the attempt, too.
    """
    lines = ["import ctypes, errno, os, socket", "from calls import call, libc", "def act():"]
    lines += [f"    {line}" for line in [*before.splitlines(), f"return {what}"]]
    if in_child:
        lines += [
            "def attempt():",
            "    pid = os.fork()",
            "    if pid == 0:",
            "        try: os._exit(0 if act() else 1)",
            "        except BaseException: os._exit(1)",
            "    return os.waitpid(pid, 0)[1] == 0",
        ]
    else:
        lines += ["attempt = act"]
    return Attempt(name, "\n".join(lines), ("seccomp", "landlock") if landlock else ("seccomp",))


_IOCTL = """
import fcntl
def ioctl(fd, request):
    try: fcntl.ioctl(fd, request, bytes(4))
    except OSError as error: return error.errno
"""
_ROOM = "room = ctypes.create_string_buffer(256)"

ATTEMPTS = [
    _call("a user namespace", 'call("unshare", 0x10000000) == 0', in_child=True),
    _call("a user namespace by clone", 'call("clone", 0x10000011, 0, 0, 0, 0) >= 0 or os._exit(0)', in_child=True),
    _call("a user namespace by clone3", 'call("clone3", arguments, 64) >= 0 or os._exit(0)',
          "arguments = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17)", in_child=True),
    _call("a mount in a user namespace", 'call("mount", b"none", b"/tmp", b"tmpfs", 0, None) == 0',
          'call("unshare", 0x10020000)', in_child=True, landlock=True),
    _call("a mount by fsopen", 'call("fsopen", b"tmpfs", 0) >= 0', 'call("unshare", 0x10020000)', in_child=True),
    _call("raw packets in a user namespace", "bool(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))",
          'call("unshare", 0x50000000)', in_child=True),
    _call("netfilter in a user namespace", "bool(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12))",
          'call("unshare", 0x50000000)', in_child=True),
    _call("a chroot in a user namespace", 'call("chroot", b"/tmp") == 0', 'call("unshare", 0x10000000)', in_child=True),
    _call("AF_VSOCK, which no network namespace has", "bool(socket.socket(40, socket.SOCK_STREAM))"),
    _call("netlink, the kernel's tables", "bool(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))"),
    _call("a protocol that loads a module", "bool(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))"),
    _call("io_uring", 'call("io_uring_setup", 8, room) >= 0', _ROOM),
    _call("io_setup, which has one limit for the whole host", 'call("io_setup", 1, room) == 0', _ROOM),
    _call("inotify, limited for each user", 'call("inotify_init1", 0) >= 0'),
    _call("fanotify", 'call("fanotify_init", 0x200, 0) >= 0'),
    _call("modify_ldt", 'call("modify_ldt", 0, room, 16) >= 0', _ROOM),
    # These objects outlive their process, so the attempts remove them.
    _call("a System V segment", 'call("shmctl", call("shmget", 0, 4096, 0o1600), 0, None) == 0'),
    _call("a System V semaphore", 'call("semctl", call("semget", 0, 1, 0o1600), 0, 0) == 0'),
    _call("a System V message queue", 'call("msgctl", call("msgget", 0, 0o1600), 0, None) == 0'),
    _call("a POSIX message queue", "True", 'name = os.urandom(8).hex().encode()\n'
          'try: call("mq_open", name, 0o102, 0o600, None)\nfinally: call("mq_unlink", name)', landlock=True),
    _call("sync, which writes all file systems", 'call("sync") == 0'),
    _call("syncfs, which writes the host's file system", 'call("syncfs", os.open("/usr", os.O_RDONLY)) == 0'),
    _call("quotactl, which writes all file systems", 'call("quotactl", 0x800001 << 8, None, 0, None) == 0'),
    _call("a handle of a file", 'call("name_to_handle_at", -100, b"/usr", room, ctypes.byref(number), 0) == 0',
          _ROOM + "\nroom[0:4] = (128).to_bytes(4, 'little')\nnumber = ctypes.c_int()"),
    _call("personality", 'call("personality", 0x0040000) >= 0', in_child=True),
    _call("a seccomp filter of its own", 'call("seccomp", 2, 0, ctypes.byref(action)) == 0',
          "action = ctypes.c_uint32(0x7FFF0000)"),
    _call("the NUMA policy of its memory", 'call("get_mempolicy", None, None, 0, 0, 0) == 0'),
    _call("move_pages of another process", 'call("move_pages", os.getpid(), 0, None, None, None, 0) == 0'),
    _call("memory of another process", 'call("process_vm_readv", os.getpid(), None, 0, None, 0, 0) == 0'),
    _call("ptrace", 'call("ptrace", 0, 0, 0, 0) == 0', in_child=True),
    _call("kcmp, which compares kernel objects", 'call("kcmp", os.getpid(), os.getpid(), 0, 0, 0) >= 0'),
    _call("a descriptor of another process", 'call("pidfd_getfd", os.pidfd_open(os.getpid()), 0, 0) >= 0'),
    _call("secret memory", 'call("memfd_secret", 0) >= 0'),
    _call("cachestat, which tells what is in the page cache", 'call("cachestat", descriptor, span, room, 0) == 0',
          _ROOM + "\nspan = (ctypes.c_uint64 * 2)(0, 4096)\n"
          "import tempfile\nown = tempfile.TemporaryFile()\ndescriptor = own.fileno()"),
    _call("adjtimex, which can set the clock", 'call("adjtimex", room) >= 0', _ROOM),
    _call("a sibling process (CLONE_PARENT)", 'call("clone", 0x8011, 0, 0, 0, 0) >= 0 or os._exit(0)', in_child=True),
    # Descriptor 0 is not a terminal. ENOTTY shows that the call has reached the kernel.
    _call("input into a terminal (TIOCSTI)", "ioctl(0, 0x5412) == errno.ENOTTY", _IOCTL),
    _call("a line discipline, which loads a module", "ioctl(0, 0x5423) == errno.ENOTTY", _IOCTL),
    _call("a BPF program on a socket", "server.setsockopt(1, 26, filter) is None",
          "import struct\ncode = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 65535), 8)\n"
          "filter = struct.pack('HP', 1, ctypes.addressof(code))\n"
          "server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"),
    _call("a lease on a file, which makes others wait", "fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK) == 0",
          "import fcntl, tempfile\nwriter, path = tempfile.mkstemp()\nos.close(writer)\n"
          "descriptor = os.open(path, os.O_RDONLY)"),
    # SIGCONT would wake a function that is stopped between calls.
    _call("a timer that wakes the function", 'call("timer_create", 1, event, room) == 0',
          _ROOM + "\nevent = (ctypes.c_int * 16)(0, 0, 18, 0)"),
    _call("a child that wakes the function when it ends", 'call("clone", 18, 0, 0, 0, 0) >= 0 or os._exit(0)',
          in_child=True),
    _call("a descriptor that wakes the function", "fcntl.fcntl(0, 10, 18) == 0", "import fcntl"),
    _call("a descriptor that ends a process, whose end wakes others", "fcntl.fcntl(0, 10, 9) == 0", "import fcntl"),
    _call("a parent that wakes the function when it ends", 'call("prctl", 1, 18, 0, 0, 0) == 0', in_child=True),
    _call("the host's handler of core dumps", "resource.getrlimit(resource.RLIMIT_CORE)[0] != 1",
          "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))", in_child=True),
    # Most hosts have no large pages. ENOMEM shows that the call has reached the kernel.
    _call("the host's large pages", "mapped() in (None, errno.ENOMEM)",
          "import mmap\ndef mapped():\n"
          "    try: mmap.mmap(-1, 1 << 21, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)\n"
          "    except OSError as error: return error.errno"),
    Attempt(
        "a 32-bit system call",
        """
import ctypes, mmap, os
def attempt():
    if os.uname().machine != "x86_64":
        return False
    # mov eax, 20 (getpid); int 0x80; ret
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3")
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return function() == os.getpid()
""",
        ("seccomp",),
    ),
]  # fmt: skip
