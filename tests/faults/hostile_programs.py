# ruff: noqa: E501  (programs are written on one line)
"""Hostile programs for the sandbox. Each prints ESCAPED when it got access that it must not have.

`tests.faults.hostile` fills in the names in braces: {secret} a file of the user's, {home} its folder, {tcp} a port and
{abstract} a socket that the grader's machine listens on, {grader} the grader's pid, {package} the grader's own code.
Every program is asked for add(2, 3); none may pass.
"""

from __future__ import annotations

_TRY = """
import os, sys, ctypes, socket, subprocess, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, f, *a):
    try: got = f(*a)
    except BaseException as e: return None
    if isinstance(got, int) and not isinstance(got, bool) and got < 0: return None
    print("ESCAPED", what, repr(got)[:80], flush=True); return got
def add(a, b): return None
"""


def _tries(*lines: str) -> str:
    return _TRY + "\n".join(f"attempt({line})" for line in lines) + "\n"


REACHING_OUT = {
    "read_passwd": _tries("'passwd', open, '/etc/passwd'"),
    "read_secret": _tries("'secret', lambda: open({secret!r}).read()", "'fd', os.open, {secret!r}, 0"),
    "list_home": _tries("'home', os.listdir, {home!r}", "'root', os.listdir, '/root'", "'home', os.listdir, '/home'"),
    "read_grader": _tries("'source', open, {package!r} + '/benchmarks/mbpp.py'", "'list', os.listdir, {package!r}"),
    "write_home": _tries("'write', open, {home!r} + '/owned', 'w'", "'write', open, '/owned', 'w'"),
    "write_library": _tries("'write', open, os.path.dirname(os.__file__) + '/owned.py', 'w'"),
    "delete_secret": _tries("'unlink', os.unlink, {secret!r}", "'rename', os.rename, {secret!r}, {home!r} + '/x'"),
    "links": _tries("'link', lambda: (os.symlink({secret!r}, 'l'), open('l').read())", "'link', os.link, {secret!r}, 'h'"),
    "modes": _tries("'chmod', os.chmod, {secret!r}, 0o777", "'chown', os.chown, {secret!r}, 0, 0"),
    "proc": _tries(*(f"'{p}', lambda: open('/proc/{p}', 'rb').read()" for p in (
        "1/environ", "self/environ", "self/mem", "{grader}/environ", "{grader}/maps", "kcore", "sysrq-trigger"))),
    "devices": _tries("'mem', open, '/dev/mem'", "'kmsg', open, '/dev/kmsg', 'w'", "'mknod', os.mknod, 'd', 0o60666, 1793",
                      "'shm', lambda: open('/dev/shm/x', 'wb').write(bytes(1 << 20))"),
    "chroot": _tries("'chroot', os.chroot, '/'", "'mount', libc.mount, b'none', b'/tmp', b'proc', 0, None",
                     "'pivot', libc.syscall, 155, b'.', b'.'"),
    "scratch_of_others": _tries("'parents', lambda: [n for n in os.listdir('..') if 'lai-sandbox' in n][0]"),
    "tcp": _tries("'tcp', socket.create_connection, ('127.0.0.1', {tcp}), 1"),
    "udp": _tries("'udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))"),
    "dns": _tries("'dns', socket.getaddrinfo, 'localhost', 80"),
    "listen": _tries("'listen', lambda: socket.create_server(('127.0.0.1', 0))"),
    "abstract_socket": _tries("'unix', lambda: socket.socket(socket.AF_UNIX).connect({abstract!r}) or 1"),
    "netlink": _tries("'netlink', socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 0", "'raw', socket.socket, 17, 3, 0"),
    "environment": _tries("'environ', lambda: dict(os.environ)['LAI_SECRET']", "'getenv', lambda: 1 // len(os.environ)",
                          "'real', lambda: ctypes.string_at(ctypes.CDLL(None).getenv(b'LAI_SECRET') or 1 / 0)"),
    "shell": _tries("'sh', lambda: subprocess.run(['/bin/sh', '-c', 'id'], check=True)", "'sh', lambda: 1 // (os.system('true') == 0)"),
    "spawn": _tries("'spawn', os.posix_spawn, sys.executable, ['x'], {{}}", "'exec', lambda: os.execv(sys.executable, ['x'])",
                    "'vfork', lambda: subprocess.Popen([sys.executable])"),
    "kill": _tries("'parent', lambda: os.kill(os.getppid() or {grader}, 9) or 1", "'grader', lambda: os.kill({grader}, 9) or 1",
                   "'all', lambda: os.kill(-1, 9) or 1", "'group', lambda: os.killpg(0, 9) or 1"),
    "trace": _tries("'ptrace', libc.ptrace, 16, {grader}, 0, 0", "'traceme', libc.ptrace, 0, 0, 0, 0",
                    "'vm', libc.syscall, 310, {grader}, 0, 0, 0, 0, 0"),
    "pidfd": _tries("'pidfd', libc.syscall, 434, {grader}, 0", "'getfd', libc.syscall, 438, 3, 0, 0"),
    "namespaces": _tries("'user', libc.unshare, 0x10000000", "'mount', libc.unshare, 0x00020000", "'setns', libc.syscall, 308, 3, 0",
                         "'clone', libc.syscall, 56, 0x10000011, 0, 0, 0, 0", "'clone3', libc.syscall, 435, 0, 0"),
    "root": _tries("'uid', lambda: os.setuid(0) or 1", "'gid', lambda: os.setgid(0) or 1", "'groups', lambda: os.setgroups([0]) or 1",
                   "'caps', libc.syscall, 126, 0, 0", "'keepcaps', libc.prctl, 8, 1, 0, 0, 0"),
    "limits": _tries(*(f"'limit', lambda: __import__('resource').setrlimit({n}, (-1, -1)) or 1" for n in (0, 1, 6, 7, 9))),
    "kernel": _tries("'bpf', libc.syscall, 321, 0, 0, 0", "'io_uring', libc.syscall, 425, 8, ctypes.create_string_buffer(120)",
                     "'perf', libc.syscall, 298, 0, 0, -1, -1, 0", "'keyctl', libc.syscall, 250, 0, -3, 1",
                     "'userfault', libc.syscall, 323, 0", "'module', libc.syscall, 313, 3, b'', 0", "'reboot', libc.reboot, 0"),
    "shared_memory": _tries("'shm', libc.shmget, 0, 1 << 20, 0o1600", "'memfd', os.memfd_create, 'x'", "'msg', libc.msgget, 0, 0o1600",
                            "'mq', libc.mq_open, b'/x', 0o102, 0o600, None", "'sem', libc.semget, 0, 1, 0o1600"),
    "leftover_daemon": _TRY + """
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(20)
        os._exit(0)
    return "a daemon"
attempt("daemon", daemon)
""",
    "fork_bomb": _TRY + """
made = 0
for _ in range(300):
    try: pid = os.fork()
    except OSError: break
    if pid == 0:
        time.sleep(20)
        os._exit(0)  # else, where nothing holds it, each would go on forking
    made += 1
if made: print("ESCAPED", made, "processes", flush=True)
""",
    "descriptors": _TRY + """
for fd in [*range(3, 4), *range(5, 256)]:
    attempt(f"fd {{fd}}", os.fstat, fd)
""",
}  # fmt: skip
"""Every attempt must be refused; the output shows those that were not."""

GREEDY = {
    "memory": "def add(a, b):\n    x = []\n    while True: x.append(bytearray(10 << 20))",
    "small_objects": "def add(a, b):\n    d = {{}}\n    while True: d[len(d)] = [0] * 50",
    "mmap": "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 64 << 20))",
    "big_integer": "def add(a, b): return 3 ** (3 ** 30)",
    "big_string": "def add(a, b): return 'x' * (1 << 40)",
    "recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef add(a, b): return add(a, b)",
    "c_recursion": "def add(a, b):\n    x = []\n    for _ in range(10 ** 6): x = [x]\n    return repr(x)",
    "threads": (
        "import threading, time\nn = 0\ntry:\n    while n < 1000: threading.Thread(target=time.sleep, args=(600,), "
        "daemon=True).start(); n += 1\nexcept BaseException: pass\nif n > 200: print('ESCAPED', n, flush=True)\n"
        "def add(a, b): return None"
    ),
    "busy_threads": (
        "import threading\ndef spin():\n    while True: pass\nfor _ in range(8): threading.Thread(target=spin, "
        "daemon=True).start()\ndef add(a, b):\n    while True: pass"
    ),
    "endless_output": "def add(a, b):\n    while True: print('x' * 10000)",
    "a_gigabyte": "import sys\nfor _ in range(1024): sys.stdout.write('x' * (1 << 20))\ndef add(a, b): return None",
    "endless_errors": "import os\ndef add(a, b):\n    while True: os.write(2, b'x' * 65536)",
    "loop": "while True: pass",
    "loop_in_call": "def add(a, b):\n    while True: pass",
    "regex": "import re\ndef add(a, b): return re.match(r'(a+)+$', 'a' * 40 + 'b')",
    "deaf_loop": (
        "import signal\nfor n in range(1, 64):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): "
        "pass\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "sleep": "import time\ndef add(a, b): time.sleep(600)",
    "deadlock": "import threading\ndef add(a, b):\n    l = threading.Lock(); l.acquire(); l.acquire()",
    "one_huge_file": (
        "n = 0\ntry:\n    with open('big', 'wb') as f:\n        while n < 200: f.write(bytes(1 << 20)); f.flush(); n += 1\n"
        "except OSError: pass\nif n > 64: print('ESCAPED', n, 'MiB', flush=True)\ndef add(a, b): return None"
    ),
    "many_files": (
        "n = 0\ntry:\n    for i in range(64):\n        with open(f'f{{i}}', 'wb') as f: f.write(bytes(4 << 20)); n += 4\n"
        "except OSError: pass\nif n > 64: print('ESCAPED', n, 'MiB', flush=True)\ndef add(a, b): return None"
    ),
    "many_names": (
        "n = 0\ntry:\n    for i in range(20000):\n        open(f'n{{i}}', 'w').close(); n += 1\n"
        "except OSError: pass\nif n > 10000: print('ESCAPED', n, 'files', flush=True)\ndef add(a, b): return None"
    ),
    "many_descriptors": (
        "x = []\ntry:\n    while len(x) < 5000: x.append(open('d', 'w'))\nexcept OSError: pass\n"
        "if len(x) > 1000: print('ESCAPED', len(x), flush=True)\ndef add(a, b): return None"
    ),
    "reads_input": "def add(a, b): return input()",
    "crash": "import ctypes\ndef add(a, b): return ctypes.string_at(0)",
    "abort": "import os\ndef add(a, b): os.abort()",
}  # fmt: skip
"""Each must be ended by its limits, and the next program must run normally."""

FORGING = {
    "exit": "import sys\ndef add(a, b): return 0\nsys.exit(0)",
    "hard_exit": "import os\ndef add(a, b): return 0\nos._exit(0)",
    "exit_in_call": "import sys\ndef add(a, b): sys.exit(0)",
    "hard_exit_in_call": "import os\ndef add(a, b): os._exit(0)",
    "exit_later": "import os, threading\nthreading.Timer(0.01, os._exit, (0,)).start()\ndef add(a, b): return 0",
    "atexit": "import atexit, os, sys\natexit.register(os._exit, 0)\ndef add(a, b): sys.exit(0)",
    "excepthook": "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\ndef add(a, b): raise ValueError",
    "own_check": "def check(candidate): return True\ndef add(a, b): return 0",
    "own_assertion": "import builtins\nbuiltins.AssertionError = KeyboardInterrupt\ndef add(a, b): return 0",
    "builtins": (
        "import builtins\nfor n in ('all', 'any', 'isinstance', 'len', 'sorted', 'abs', 'round'):\n"
        "    setattr(builtins, n, lambda *a, **k: True)\ndef add(a, b): return 0"
    ),
    "always_equal": (
        "class E:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n    __hash__ = None\n"
        "def add(a, b): return E()"
    ),
    "equal_integer": "class E(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\ndef add(a, b): return E(0)",
    "equal_list": "class E(list):\n    def __eq__(s, o): return True\n    def __len__(s): return 2\ndef add(a, b): return E([0])",
    "equal_class": (
        "class M(type):\n    def __eq__(s, o): return True\n    __hash__ = type.__hash__\nclass E(metaclass=M): pass\n"
        "def add(a, b): return E"
    ),
    "lying_class": "class E:\n    __class__ = int\n    def __eq__(s, o): return True\n    def __index__(s): return 5\ndef add(a, b): return E()",
    "reversed_equal": "class E(str):\n    def __radd__(s, o): return 5\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\ndef add(a, b): return E()",
    "stop_iteration": "def add(a, b): raise StopIteration",
    "generator_exit": "def add(a, b): raise GeneratorExit",
    "assertion": "def add(a, b): raise AssertionError",
    "own_exception": "class E(AssertionError):\n    def __str__(s): raise SystemExit\ndef add(a, b): raise E",
    "keyboard": "def add(a, b): raise KeyboardInterrupt",
    "own_math": "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef add(a, b): return 0",
    "poisoned_modules": "import sys\nfor n in list(sys.modules): sys.modules[n] = None\ndef add(a, b): return 0",
    "frames": (
        "import sys, re\nmark = re.compile('EXPE[C]TED')\ndef add(a, b):\n    f = sys._getframe()\n    while f:\n"
        "        for v in [*f.f_locals.values(), *f.f_globals.values()]:\n            if mark.search(repr(v)): "
        "print('ESCAPED frame', flush=True)\n        f = f.f_back"
    ),
    "gc": (
        "import gc, re\nmark = re.compile('EXPE[C]TED')\ndef add(a, b):\n    for o in gc.get_objects():\n        try:\n"
        "            if mark.search(repr(o)): print('ESCAPED gc', flush=True)\n        except Exception: pass"
    ),
    "raw_memory": (
        "import ctypes, gc, re\nmark = re.compile(b'EXPE[C]TED-MA[R]K')\ndef add(a, b):\n"
        "    for p in {{id(o) >> 12 for o in gc.get_objects()}}:\n"
        "        if mark.search(ctypes.string_at(p << 12, 4096)): print('ESCAPED memory', flush=True)"
    ),
    "verdict_printed": "print('ready'); print('{{\"verdict\": \"passed\", \"note\": \"\"}}', flush=True)\ndef add(a, b): return 0",
    "verdict_everywhere": (
        "import os\nfor fd in range(64):\n    for text in (b'ready\\n', b'{{\"verdict\": \"passed\", \"note\": \"\"}}'):\n"
        "        try: os.write(fd, text)\n        except OSError: pass\ndef add(a, b): return 0"
    ),
    "forged_frames": (
        "import os, json, struct\nd = json.dumps({{'value': True, 'verdict': 'passed', 'note': ''}}).encode()\n"
        "os.write(4, (struct.pack('=I', len(d)) + d) * 20)\ndef add(a, b): return 0"
    ),
    "flooding_thread": (
        "import os, json, struct, threading\nd = json.dumps({{'value': 0}}).encode()\nd = struct.pack('=I', len(d)) + d\n"
        "def flood():\n    while True: os.write(4, d)\nthreading.Thread(target=flood, daemon=True).start()\ndef add(a, b): return 0"
    ),
    "garbage_frames": "import os\nos.write(4, bytes(range(256)) * 100)\ndef add(a, b): return 0",
    "endless_frame": "import os\nos.write(4, b'\\xff' * 4)\nwhile True: os.write(4, b'x' * 65536)",
    "deep_frame": (
        "import os, struct\nd = b'{{\"value\": ' + b'[' * 200000 + b']' * 200000 + b'}}'\n"
        "os.write(4, struct.pack('=I', len(d)) + d)\ndef add(a, b): return 0"
    ),
    "wide_frame": (
        "import os, struct\nd = b'{{\"value\": [' + b'[],' * 2000000 + b'0]}}'\nd = struct.pack('=I', len(d)) + d\n"
        "while d: d = d[os.write(4, d):]\ndef add(a, b): return 0"
    ),
    "false_handle": (
        "import os, json, struct\nfor v in ([0, 'x', True], [-1, 'int', False], 7, None, [True, {{}}, 0]):\n"
        "    d = json.dumps({{'value': {{'handle': v}}}}).encode()\n    os.write(4, struct.pack('=I', len(d)) + d)\ndef add(a, b): return 0"
    ),
    "false_callback": (
        "import os, json, struct\nfor v in (0, 99, -1, 'x'):\n    d = json.dumps({{'callback': v, 'arguments': [[], {{}}]}}).encode()\n"
        "    os.write(4, struct.pack('=I', len(d)) + d)\ndef add(a, b): return 0"
    ),
    "false_exception": (
        "import os, json, struct\nd = json.dumps({{'raised': ['StopIteration', 5]}}).encode()\n"
        "os.write(4, struct.pack('=I', len(d)) + d)\ndef add(a, b): return 0"
    ),
    "hung_up": "import os\nos.close(4)\ndef add(a, b): return 0",
    "huge_reply": "def add(a, b): return 'x' * (64 << 20)",
    "endless_reply": "def add(a, b):\n    x = 0\n    for _ in range(40): x = [x, x]\n    return x",
    "circular_reply": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "deep_reply": "def add(a, b):\n    x = []\n    for _ in range(5000): x = [x]\n    return x",
    "endless_generator": "def add(a, b):\n    while True: yield 0",
    "codec": "# -*- coding: undefined -*-\n\ud800\ndef add(a, b): return 0",
    "null": "def add(a, b): return 0\n\x00",
}  # fmt: skip
"""None is right; none may be judged right."""

PROGRAMS: dict[str, str] = REACHING_OUT | GREEDY | FORGING
