"""What scripts/hostile stands on: the programs of both forms, targets, runs of stuckspy with what they took, a silent file system."""
import ast
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import recording

ROOT = recording.ROOT
FIXTURES = os.path.join(ROOT, "fixtures")
# The folder that programs of the other form use for their files.
THEIR_FOLDER = "/tmp/hostile"
MARK = "STUCKSPY_HOSTILE"
# A state that settles by itself does so within this.
SETTLE = 3.0
# How long a program may take to be ready, on a busy machine.
READY = 60
KEPT = 1 << 20

# How to start each program: in the project's form, and in the other.
PROGRAMS = {
    "deadlock": ("programs/many_threads.py {0} deadlock", "deadlock.py {0}"),
    "busy": ("programs/many_threads.py {0} busy", "deadlock.py {0} busy"),
    "mixed": ("programs/many_threads.py {0} deadlock busy", "deadlock.py {0} busy"),
    "threads": ("programs/many_threads.py {0}", "threads.py {0}"),
    "tasks": ("programs/loops/many.py {0}", "tasks.py {0}"),
    "deep": ("programs/deep.py {0}", "deep.py {0}"),
    "new-code": ("hostile/new_code.py", "uniq.py"),
    "raw-calls": ("hostile/raw_calls.py", "eintr.py"),
}
CORRUPT = {
    "values": ("hostile/values.py", "corrupt.py locals"),
    "variables": ("hostile/corrupt.py variables", "corrupt.py locals_many"),
    "table-length": ("hostile/corrupt.py table-length", "corrupt.py linetable"),
    "table-address": ("hostile/corrupt.py table-address", "corrupt.py linetable_garbage"),
    "tables": ("hostile/corrupt.py tables 200", "corrupt.py linetable_4m 200"),
    "own-caller": ("hostile/corrupt.py own-caller 50", "corrupt.py frameself 50"),
    "callers": ("hostile/corrupt.py callers 300 4000 4000", "corrupt.py framecycle2 300 4000 4000"),
    "next-interpreter": ("hostile/corrupt.py next-interpreter", "corrupt.py interpself"),
    "next-thread": ("hostile/corrupt.py next-thread", "corrupt.py tstateself"),
}
# Those of the project's that wait for something else than their input.
ENDLESS = {"tasks"}
BUSY_FUNCTION = ("compute", "busy")
PINNED = """
import os, threading
def burn():
    while True: pass
for _ in range(3): threading.Thread(target=burn, daemon=True).start()
os.write(1, b'ready\\n')
burn()
"""
SLEEPER = "import os, time\nos.write(1, b'ready\\n')\ntime.sleep(100000)\n"
SEMAPHORE = """
import ctypes, multiprocessing, os
context = multiprocessing.get_context('fork')
semaphore = context.Semaphore(0)
def wait():
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: it ends with its parent
    semaphore.acquire()
context.Process(target=wait).start()
os.write(1, b'ready\\n')
semaphore.acquire()
"""
# Asks a file system again and again, and so sleeps in the kernel when that does not answer.
ASKER = """
import os, sys, time
os.write(1, b'ready\\n')
while True:
    os.stat(sys.argv[1])
    time.sleep(0.02)
"""


class Skip(Exception):
    """This machine can't do it."""


class Target:
    """A program that says a line when it is ready; it is killed at the end."""

    def __init__(self, command, environment=None, processors=None, ends_with_input=False):
        self.folder = tempfile.mkdtemp(prefix="stuckspy-")
        values = dict(os.environ, STUCKSPY_TRUTH=os.path.join(self.folder, "truth"), STUCKSPY_PROGRESS=os.path.join(self.folder, "progress"),
                      PYTHONDONTWRITEBYTECODE="1")
        values.update(environment or {})
        prepare = (lambda: os.sched_setaffinity(0, processors)) if processors else None
        self.ends_with_input = ends_with_input
        self.errors = open(os.path.join(self.folder, "stderr"), "w+b")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=values, preexec_fn=prepare)
        self.pid = self.process.pid
        alarm = threading.Timer(READY, self.process.kill)
        alarm.start()
        said = self.process.stdout.readline()
        alarm.cancel()
        if not said or said.startswith(b"skip"):
            self.errors.seek(0)
            why = said.decode().strip() or self.errors.read(500).decode(errors="replace").strip()
            self.__exit__()
            if said:
                raise Skip(why)
            raise RuntimeError("%s did not get ready: %s" % (" ".join(command[:3]), why))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            try:
                stream.close()
            except BrokenPipeError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self):
        """The answer to a line."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().decode()

    def ticks(self):
        """Processor time of all threads, in seconds."""
        with open("/proc/%d/stat" % self.pid) as stream:
            fields = stream.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rest(self):
        """Waits until it does nothing more: some still prepare when they say that they are ready."""
        before, deadline = None, time.monotonic() + READY
        while self.ticks() != before and time.monotonic() < deadline:
            before = self.ticks()
            time.sleep(0.5)

    def harm(self):
        """What of it is stopped or traced and stays so."""
        deadline = time.monotonic() + SETTLE
        while True:
            if self.process.poll() is not None:
                return ["the target ended with %d" % self.process.returncode]
            found = recording.find_harm(self.pid)
            if not found or time.monotonic() > deadline:
                return ["the target's " + one for one in found[:3]]
            time.sleep(0.001)

    def faults(self, is_busy=False):
        """What is wrong with it at the end: it is alive, not stopped, not traced, and makes progress."""
        found = self.harm()
        if is_busy and not found:
            before, deadline = self.ticks(), time.monotonic() + 10
            while self.ticks() == before and time.monotonic() < deadline:
                time.sleep(0.01)
            if self.ticks() == before:
                found.append("the target makes no progress")
        if self.ends_with_input and not found:
            self.process.stdin.close()
            try:
                code = self.process.wait(30)
            except subprocess.TimeoutExpired:
                code = None
            if code != 0:
                found.append("the target does not end as it should: %r" % code)
        return found


class Answer:
    """A run of stuckspy: what it wrote, how it ended, and what it took."""

    def __init__(self, code, out, err, seconds, peak, seen_peak):
        self.code, self.out, self.err, self.seconds, self.peak, self.seen_peak = code, out, err, seconds, peak, seen_peak
        # A process that has just been started is counted with the memory of this one.
        self.is_ours = peak <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

    def figures(self, name):
        return "%s %.1f s %s%d MiB" % (name, self.seconds, "<= " if self.is_ours else "", self.peak)

    def faults(self, name, codes=(0, 1, 4, 5), within=None, peak=None):
        found = []
        if self.code is None:
            return ["%s does not end: %s" % (name, self.err[-300:].strip())]
        if self.code not in codes or "panicked" in self.err:
            found.append("%s ends with %d: %s" % (name, self.code, self.err[-500:].strip()))
        if within is not None and self.seconds > within:
            found.append("%s takes %.1f s, more than %g" % (name, self.seconds, within))
        if peak is not None and self.peak > peak:
            found.append("%s takes %d MiB, more than %d" % (name, self.peak, peak))
        if self.seen_peak > self.peak + 1:
            found.append("%s: a process of it was seen with %d MiB, but wait4 counts %d" % (name, self.seen_peak, self.peak))
        return found


class Kept:
    """Reads a pipe to its end, and keeps the beginning and the end of it."""

    def __init__(self, stream):
        self.stream, self.head, self.tail = stream, b"", b""
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        while True:
            part = self.stream.read1(1 << 16)
            if not part:
                break
            room = KEPT - len(self.head)
            self.head += part[:room]
            self.tail = (self.tail + part[room:])[-(1 << 16):]

    def text(self):
        return (self.head + self.tail).decode(errors="replace")


class Spy:
    """Runs stuckspy."""

    def __init__(self, binary):
        self.binary = os.path.realpath(binary)
        self.environment = dict(os.environ, **{MARK: str(os.getpid())})

    def start(self, arguments, prepare=None, **more):
        return subprocess.Popen([self.binary] + [str(one) for one in arguments], stdin=subprocess.DEVNULL, env=self.environment,
                                preexec_fn=prepare, **more)

    def ask(self, *arguments, limit=60, descriptors=None, processors=None):
        """A run that is read through pipes to their ends, as `| cat` does."""
        def prepare():
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
            if processors:
                os.sched_setaffinity(0, processors)
        began = time.monotonic()
        process = self.start(arguments, prepare if descriptors or processors else None, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        streams, seen, status = [Kept(process.stdout), Kept(process.stderr)], 0, None
        while True:
            # The worker is a child, and counted when it is reaped; what is seen of both meanwhile must not be more.
            for pid in [process.pid] + children(process.pid):
                seen = max(seen, peak_of(pid))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended or time.monotonic() - began > limit:
                break
            time.sleep(0.002)
        if not ended:
            process.kill()
            _, _, usage = os.wait4(process.pid, 0)
        process.returncode = code = (os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)) if ended else -9
        for stream in streams:
            stream.thread.join(max(0.1, limit - (time.monotonic() - began)))
        # A pipe that somebody keeps open has whoever reads it wait.
        is_over = ended and not any(stream.thread.is_alive() for stream in streams)
        answer = Answer(code if is_over else None, streams[0].text(), streams[1].text(), time.monotonic() - began, usage.ru_maxrss >> 10, seen >> 10)
        for stream in streams:
            if not stream.thread.is_alive():
                stream.stream.close()
        return answer

    def leftovers(self):
        """Processes of ours that stay behind."""
        deadline = time.monotonic() + SETTLE
        while True:
            found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self.is_ours(pid)]
            if not found or time.monotonic() > deadline:
                return ["processes of stuckspy stay behind: %s" % found] if found else []
            time.sleep(0.01)

    def is_ours(self, pid):
        try:
            if os.readlink("/proc/%d/exe" % pid) != self.binary:
                return False
            with open("/proc/%d/environ" % pid, "rb") as stream:
                return ("%s=%d" % (MARK, os.getpid())).encode() in stream.read().split(b"\0")
        except OSError:
            return False


def children(pid):
    try:
        with open("/proc/%d/task/%d/children" % (pid, pid)) as stream:
            return [int(one) for one in stream.read().split()]
    except OSError:
        return []


def peak_of(pid):
    """The most memory that a process had resident, in KiB."""
    try:
        with open("/proc/%d/status" % pid) as stream:
            return int(re.search(r"VmHWM:\s+(\d+)", stream.read()).group(1))
    except (OSError, AttributeError):
        return 0


class Programs:
    """The programs, in the project's form or, in a folder, in the other."""

    def __init__(self, folder, python):
        self.folder, self.python = folder, python
        if folder:
            os.makedirs(THEIR_FOLDER, exist_ok=True)
            for name in os.listdir(folder):
                if os.path.isfile(os.path.join(folder, name)):
                    shutil.copyfile(os.path.join(folder, name), os.path.join(THEIR_FOLDER, name))

    def start(self, name, *arguments, table=PROGRAMS):
        words = table[name][bool(self.folder)].format(*arguments).split()
        words[0] = os.path.join(self.folder or FIXTURES, words[0])
        if not os.path.isfile(words[0]):
            raise Skip("no %s" % words[0])
        return Target([self.python] + words, ends_with_input=not self.folder and name not in ENDLESS)

    def busy_function(self):
        return BUSY_FUNCTION[bool(self.folder)]

    def interrupted(self, target):
        """How often raw calls of the program `raw-calls` were interrupted, by name."""
        if not self.folder:
            return {name: interrupted for name, (_, interrupted) in json.loads(target.ask()).items()}
        time.sleep(1.0)  # it writes twice a second
        with open(os.path.join(THEIR_FOLDER, "eintr.log")) as stream:
            return ast.literal_eval(stream.read().splitlines()[-1])

    def silent_files(self, files):
        return TheirFileSystem(self, files) if self.folder else OwnFileSystem(self, files)


class OwnFileSystem:
    """A folder of copies of files through fixtures/hostile/silent_file_system.py."""

    def __init__(self, programs, files):
        self.base = tempfile.mkdtemp(prefix="stuckspy-")
        self.point, source = os.path.join(self.base, "mount"), os.path.join(self.base, "files")
        os.mkdir(self.point)
        copy_all(files, source)
        self.daemon = self.start_daemon(programs, source)

    def start_daemon(self, programs, source):
        return Target([programs.python, os.path.join(FIXTURES, "hostile", "silent_file_system.py"), self.point, source], ends_with_input=True)

    def path(self, file):
        return os.path.join(self.point, os.path.basename(file))

    def be(self, word):
        self.daemon.process.stdin.write(word.encode() + b"\n")
        self.daemon.process.stdin.flush()
        self.daemon.process.stdout.readline()

    def close(self):
        self.be("answer")
        self.daemon.faults()  # it unmounts when its input ends
        self.daemon.__exit__()
        shutil.rmtree(self.base, ignore_errors=True)


class TheirFileSystem(OwnFileSystem):
    """The same through fused.py of the other folder, which a file tells to be silent."""

    HANG = os.path.join(THEIR_FOLDER, "fuse.hang")

    def __init__(self, programs, files):
        self.base, self.point = tempfile.mkdtemp(prefix="stuckspy-"), os.path.join(THEIR_FOLDER, "fuse")
        os.makedirs(self.point, exist_ok=True)
        self.be("answer")
        source = os.path.join(self.base, "files")
        copy_all(files + [os.path.join(programs.folder, "sleepy.py")], source)
        # Its kernel would keep names and sizes for an hour.
        self.daemon = Target([programs.python, os.path.join(programs.folder, "fused.py"), self.point, source], {"VALID": "0"})

    def be(self, word):
        if word == "silent":
            open(self.HANG, "w").close()
        elif os.path.exists(self.HANG):
            os.unlink(self.HANG)

    def close(self):
        self.be("answer")
        subprocess.run(["umount", "--lazy", self.point], check=False)
        self.daemon.__exit__()
        shutil.rmtree(self.base, ignore_errors=True)


def copy_all(files, folder):
    os.mkdir(folder)
    for file in files:
        shutil.copy(file, folder)


def library_of(python):
    """The shared library that an interpreter lives in, and its prefix; `None` where it has none."""
    ask = "import sys, sysconfig; print(sysconfig.get_config_var('LIBDIR')); print(sysconfig.get_config_var('INSTSONAME')); print(sys.prefix)"
    folder, name, prefix = subprocess.run([python, "-c", ask], stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()
    path = os.path.join(folder, name)
    return (path, prefix) if ".so" in name and os.path.isfile(path) else (None, prefix)


def program_of(python):
    """The file that a name of an interpreter leads to; shims are asked."""
    ask = [python, "-c", "import os; print(os.readlink('/proc/self/exe'))"]
    return subprocess.run(ask, stdout=subprocess.PIPE, check=True).stdout.decode().strip()


def need_root(*paths):
    if os.geteuid() != 0:
        raise Skip("this needs root")
    for path in paths:
        if not os.path.exists(path) and not shutil.which(path):
            raise Skip("no " + path)
