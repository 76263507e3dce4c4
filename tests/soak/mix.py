"""The functions of the soak tests. Good ones return their number `n`; hostile ones must harm only themselves.

Every second one has isolation by call.
"""

from __future__ import annotations

GOOD = {
    "echo": "def main(n): return n",
    "state": "seen = []\ndef main(n):\n    seen.append(n)\n    return seen[-1]",
    "files": (
        "import os\n"
        "def main(n):\n"
        "    for folder in ('/tmp', '/dev/shm'):\n"
        "        with open(f'{folder}/mine', 'w') as file: file.write(str(n))\n"
        "    return int(open('/tmp/mine').read())"
    ),
    "thread": (
        "import threading\n"
        "def main(n):\n"
        "    found = []\n"
        "    thread = threading.Thread(target=found.append, args=(n,))\n"
        "    thread.start(); thread.join()\n"
        "    return found[0]"
    ),
    "process": (
        "import subprocess\ndef main(n): return int(subprocess.run(['/bin/echo', str(n)], capture_output=True).stdout)"
    ),
    "async": "import asyncio\nasync def main(n):\n    await asyncio.sleep(0)\n    return n",
}

HOSTILE = {
    "exits": "import os\ndef main(n): os._exit(n % 3)",
    "crashes": "import ctypes\ndef main(n): ctypes.string_at(0)",
    "kills all": "import os\ndef main(n): os.kill(-1, 9)\n",
    "closes all": "import os\ndef main(n): os.closerange(0, 256)",
    "leaves processes": (
        "import os, time\n"
        "def main(n):\n"
        "    for _ in range(3):\n"
        "        if os.fork() == 0:\n"
        "            os.setsid(); time.sleep(600)\n"
        "    return n"
    ),
    "leaves a thread": (
        "import threading, time\n"
        "def main(n):\n"
        "    threading.Thread(target=time.sleep, args=(0.3,), daemon=True).start()\n"
        "    return n"
    ),
    "fills /tmp": (
        "def main(n):\n    with open(f'/tmp/{n}', 'wb') as file:\n        while True: file.write(bytes(1 << 20))"
    ),
    "hoards memory": "held = []\ndef main(n):\n    while True: held.append(bytearray(1 << 20))",
    "hoards memory files": (
        "import os\n"
        "def main(n):\n"
        "    file, block = os.memfd_create('x'), bytes(1 << 20)\n"
        "    while True: os.write(file, block)"
    ),
    "never ends": "def main(n):\n    while True: pass",
    "forks": "import os\ndef main(n):\n    while True: os.fork()",
    "answers wrongly": (
        "import os\n"
        "def main(n):\n"
        "    for fd in range(3, 32):\n"
        "        try: os.write(fd, b'garbage' * 50)\n"
        "        except OSError: pass"
    ),
    # The numbers of add_key and keyctl; the keyrings of the thread, process, session, user and user's session.
    "leaves keys": (
        "import ctypes, os\n"
        "add, control = (248, 250) if os.uname().machine == 'x86_64' else (217, 219)\n"
        "def main(n):\n"
        "    call = ctypes.CDLL(None).syscall\n"
        "    for ring in range(-5, 0):\n"
        "        call(add, b'user', b'left-%d' % n, b'x', 1, ring)\n"
        "    call(control, 22, -1, -3)\n"  # the keyring that lasts for days
        "    call(control, 1, None)\n"  # a new session keyring
        "    return n"
    ),
    "floods the log": "def main(n):\n    for _ in range(20000): print('x' * 100)\n    return n",
}

ISOLATION = {name: "per_call" if number % 2 else "warm" for number, name in enumerate([*GOOD, *HOSTILE])}
