"""What the scripts about `stuckspy record` share: fixture programs, recordings of them, and a judge of the stacks."""
import glob
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.path.join(ROOT, "target", "release", "stuckspy")
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "stuckspy")
LABEL = re.compile(r"(.*?) \((.*?)(?::(\d+))?\)", re.DOTALL)
THREAD = re.compile(r"thread [^:]*: (.*)", re.DOTALL)
PROCESS = re.compile(r"process (\d+):\s?(.*)", re.DOTALL)


def find_pythons(versions):
    """Those of the versions that are here, and a word about each that is not."""
    pyenv = os.path.join(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"), "versions")
    cache = os.environ.get("STUCKSPY_PYTHONS") or os.path.join(CACHE, "pythons")
    found = []
    for version in versions:
        places = [os.path.join(pyenv, version + ".*", "bin", "python" + version), os.path.join(cache, version, "bin", "python" + version),
                  os.path.join("/usr/bin", "python" + version)]
        paths = [path for place in places for path in sorted(glob.glob(place))]
        if paths:
            found.append(paths[0])
        else:
            print("skipped: python %s: not found" % version, flush=True)
    return found


class Fixture(object):
    """A running fixture program; the protocol stands in fixtures/programs/_truth.py."""

    def __init__(self, python, program, *arguments):
        self.folder = tempfile.mkdtemp(prefix="stuckspy-")
        truth, self._progress = os.path.join(self.folder, "truth"), os.path.join(self.folder, "progress")
        reader, writer = os.pipe()
        environment = dict(os.environ, STUCKSPY_TRUTH=truth, STUCKSPY_PROGRESS=self._progress, STUCKSPY_READY_FD=str(writer),
                           PYTHONDONTWRITEBYTECODE="1")
        command = [python, os.path.join(ROOT, "fixtures", "programs", program + ".py")] + [str(one) for one in arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, pass_fds=[writer])
        os.close(writer)
        with os.fdopen(reader) as ready:
            if "ready" not in ready.read(6):
                raise SystemExit("%s did not get ready" % " ".join(command))
        with open(truth) as stream:
            self.truth = json.load(stream)
        self.pid = self.process.pid
        self.version = ".".join(str(number) for number in self.truth["version"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        shutil.rmtree(self.folder)

    def progress(self):
        with open(self._progress, "rb") as stream:
            return stream.read()

    def rounds(self):
        return struct.unpack("=Q", self.progress()[:8])[0]

    def spent(self):
        """Processor and wall time of each counter of shares.py."""
        count = len(self.truth["extra"]["counters"])
        return list(struct.iter_unpack("=dd", self.progress()[8:8 + 16 * count]))

    def cpu(self):
        """Processor time of all threads, in seconds, as exact as the scheduler knows it."""
        total = 0
        for path in glob.glob("/proc/%d/task/*/schedstat" % self.pid):
            with open(path) as stream:
                total += int(stream.read().split()[0])
        return total / 1e9

    def harm(self):
        """What is wrong with it: a list of words."""
        if self.process.poll() is not None:
            return ["ended with %r" % self.process.returncode]
        return find_harm(self.pid)

    def finish(self):
        """Ends it as only a working thread of it can; whether that came so."""
        self.process.stdin.close()
        try:
            return self.process.wait(60) == 0
        except subprocess.TimeoutExpired:
            return False


def find_harm(pid):
    """Threads of a process that are stopped or traced."""
    found = []
    for tid in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/status" % (pid, tid), "rb") as stream:
                fields = dict(line.split(b":", 1) for line in stream.read().split(b"\n") if b":" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread may end at any time
        state, tracer = fields[b"State"].split()[0].decode(), fields[b"TracerPid"].strip().decode()
        if tracer != "0":
            found.append("thread %s traced by %s" % (tid, tracer))
        if state in "Tt":
            found.append("thread %s in state %s" % (tid, state))
    return found


class Recording(object):
    """What a profiler wrote, said and used."""

    def __init__(self, command, path):
        began = time.monotonic()
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
            errors.seek(0)
            self.said = errors.read().decode(errors="replace")
        self.command, self.code = command, process.returncode
        self.seconds, self.cpu = time.monotonic() - began, usage.ru_utime + usage.ru_stime
        self.stacks = []
        if os.path.exists(path):
            with open(path, encoding="utf-8") as stream:
                self.stacks = parse(stream.read())

    def counts(self):
        """How many samples were taken, late, lost and torn by its own word; it says only what there was."""
        taken = re.search(r"(\d+) samples in ", self.said)
        found = {"taken": int(taken.group(1)) if taken else None}
        for word in ("late", "lost", "stacks torn"):
            match = re.search(r"(\d+) %s\b" % word, self.said)
            found[word.split()[-1]] = int(match.group(1)) if match else 0 if taken else None
        return found

    def complain(self):
        """Nothing, or why it is of no use."""
        if self.code != 0:
            return "%s: exit code %d: %s" % (" ".join(self.command), self.code, self.said[-500:].strip())
        return None


def record(binary, pid, seconds, rate, *options, **more):
    """Records a process as folded stacks."""
    folder = tempfile.mkdtemp(prefix="stuckspy-")
    try:
        path = os.path.join(folder, "folded")
        command = [binary, "record", "-f", more.get("format", "raw"), "-o", path, "-d", "%g" % seconds, "-r", str(rate), "--full-filenames"]
        return Recording(command + list(options) + ["-p", str(pid)], path)
    finally:
        shutil.rmtree(folder)


class Stack(object):
    """A line of folded output: frames (function, file, line, 0 where there is none) from the outermost in."""

    def __init__(self, labels, count):
        self.count, self.thread, self.process, self.markers, self.frames = count, None, None, [], []
        for label in labels:
            frame, thread, process = LABEL.fullmatch(label), THREAD.fullmatch(label), PROCESS.fullmatch(label)
            if process and not self.frames:
                self.process = int(process.group(1)), process.group(2).strip('"')  # py-spy quotes it
            elif thread and not self.frames:
                self.thread = thread.group(1)
            elif frame:
                self.frames.append((frame.group(1), frame.group(2), int(frame.group(3) or 0)))
            else:
                self.markers.append(label)


def parse(text):
    """The stacks of folded output."""
    stacks = []
    for line in text.splitlines():
        labels, _, count = line.rpartition(" ")
        if not labels or not count.isdigit():
            raise SystemExit("not a folded stack: %r" % line)
        stacks.append(Stack(labels.split(";"), int(count)))
    return stacks


class Judge(object):
    """Knows from a program's truth which stacks are possible."""

    def __init__(self, truth):
        extra = truth["extra"]
        self.calls = set(tuple(call) for call in extra["calls"])
        self.outermost = set(tuple(pair) for pair in extra["outermost"])
        self.ours = set(call[1] for call in self.calls) | set(call[4] for call in self.calls)

    def find_impossible(self, stack):
        """What can't be in this stack. Frames of other files are passed over."""
        for caller, callee in zip(stack.frames, stack.frames[1:]):
            if caller[1] in self.ours and callee[1] in self.ours and caller + callee[:2] not in self.calls:
                return "%s (%s:%d) does not call %s (%s)" % (caller + callee[:2])
        ours = [frame for frame in stack.frames if frame[1] in self.ours]
        if ours and ours[0][:2] not in self.outermost:
            return "%s (%s) is outermost, but somebody calls it" % ours[0][:2]
        return None
