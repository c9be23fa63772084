"""Python packages of a project, kept in `{project_root}/.venv` by the host's own pip (22.3 or later).

Wheels only: no code of a package runs while it is installed. Which index, CA and credentials are used is pip's own configuration,
which the engine hands in as `PIP_*` variables; nothing here names a host.

`policy` may hold `packages` (the names that a call may ask for; what those depend on comes along) and `require_hashes`.
"""
import os
import sys

# What a requirement may be, as in schemas/install.json, for a configuration that names no schema. No URL, path, marker, option, space.
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
CLAUSE = r"(?:==|!=|<=|>=|~=|<|>)[A-Za-z0-9][A-Za-z0-9.*+!_-]*"
REQUIREMENT = r"(%s)(?:\[%s(?:,%s)*\])?(?:%s(?:,%s)*)?" % (NAME, NAME, NAME, CLAUSE, CLAUSE)
HASH = r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}"
# pip takes a name that ends so for a file when there is one.
ARCHIVE = r"(?i).*\.(?:whl|zip|egg|tar(?:\.[a-z0-9]+)?|t(?:gz|bz|lz|xz))"

# Present while a virtual environment is being made: it marks one whose making was interrupted.
UNFINISHED = ".upm-unfinished"


class PipError(Exception):
    """pip, or the project's virtual environment, did not do what was asked."""


class PipPlugin:
    """Installs, removes and lists the packages of a project."""

    version = "1.0.0"

    def __init__(self, project_root, cache_dir, policy):
        self.venv = os.path.join(project_root, ".venv")
        self.python = os.path.join(self.venv, "bin", "python")
        self.cache_dir = cache_dir
        self.policy = policy

    # Methods

    def install(self, *packages, hashes=None, upgrade=False):
        """Installs packages (`requests`, `requests[socks]>=2.31,<3`) and what they need.

        `installed` is what this call changed: empty when all was there. With `hashes` (`sha256:…`), each wheel must have one of
        them, so the wheels of all dependencies too.
        """
        names = [self._name_of(package, REQUIREMENT) for package in packages]
        for value in hashes or ():
            _matched(HASH, value)
        if not names:
            raise PipError("no package is named; give at least one")
        self._obey_policy(names, hashes)
        with _Work(self) as work:
            self._make_venv()
            report = os.path.join(work, "report.json")
            options = ["--only-binary", ":all:", "--progress-bar", "off", "--report", report]
            if upgrade:
                options.append("--upgrade")
            if hashes:
                wanted = os.path.join(work, "requirements.txt")
                with open(wanted, "w") as file:
                    for package in packages:
                        file.write(" ".join([package] + ["--hash=" + value for value in hashes]) + "\n")
                arguments = ["--require-hashes", "-r", wanted]
            else:
                arguments = ["--"] + list(packages)
            self._pip(work, "install", options + arguments)
            import json

            with open(report) as file:
                done = [entry["metadata"] for entry in json.load(file)["install"]]
        installed = sorted(({"name": entry["name"], "version": entry["version"]} for entry in done), key=_by_name)
        return {"status": "installed", "package": " ".join(packages), "installed": installed}

    def uninstall(self, *packages):
        """Removes packages by name; what they needed stays. One that is not installed is an error, and then none is removed."""
        names = [self._name_of(package, NAME) for package in packages]
        if not names:
            raise PipError("no package is named; give at least one")
        with _Work(self) as work:
            there = {_normal(entry["name"]): entry for entry in self._installed()}
            for package, name in zip(packages, names):
                if name not in there:
                    raise PipError("%s: not installed in %s" % (package, self.venv))
            self._make_venv()
            self._pip(work, "uninstall", ["--yes", "--"] + list(packages))
            left = {_normal(entry["name"]) for entry in self._installed()}
        gone = sorted((there[name] for name in set(names) if name not in left), key=_by_name)
        if len(gone) != len(set(names)):
            raise PipError("%s: still installed" % ", ".join(sorted(set(names) & left)))
        return {"status": "uninstalled", "package": " ".join(packages), "uninstalled": gone}

    def list(self):
        """The packages of the virtual environment; none when there is no such environment yet."""
        return {"packages": self._installed()}

    def info(self):
        """What this plugin is."""
        return {
            "name": "PipPlugin",
            "version": self.version,
            "description": "Installs Python packages, wheels only, into the project's .venv",
            "methods": ["install", "uninstall", "list", "version", "info", "meta"],
        }

    def meta(self):
        """Where it works, and with what."""
        return {"venv": self.venv, "cache_dir": self.cache_dir, "interpreter": sys.executable, "python": "%d.%d.%d" % sys.version_info[:3]}

    # How

    def _name_of(self, package, pattern):
        found = _matched(pattern, package)
        import re

        if re.fullmatch(ARCHIVE, package):
            raise PipError("%r: pip would take it for a file" % package)
        return _normal(found.group(1) if found.re.groups else package)

    def _obey_policy(self, names, hashes):
        unknown = set(self.policy) - {"packages", "require_hashes"}
        if unknown:
            raise PipError("policy.%s: no such key; PipPlugin knows packages and require_hashes" % sorted(unknown)[0])
        if self.policy.get("require_hashes") and not hashes:
            raise PipError("hashes: missing; the policy requires them")
        if "packages" in self.policy:
            allowed = {_normal(name) for name in self.policy["packages"]}
            for name in names:
                if name not in allowed:
                    raise PipError("%s: not one of the policy's packages" % name)

    def _make_venv(self):
        """Makes the virtual environment, or completes one whose making was interrupted."""
        mark = os.path.join(self.venv, UNFINISHED)
        if os.path.lexists(self.venv) and not os.path.exists(mark):
            if not os.path.exists(os.path.join(self.venv, "pyvenv.cfg")):
                raise PipError("%s: not a virtual environment; move it away" % self.venv)
            if not os.access(self.python, os.X_OK):
                raise PipError("%s: its interpreter is not to be had here; remove %s and install again" % (self.python, self.venv))
            return
        _say("making %s" % self.venv)
        import venv

        os.makedirs(self.venv, exist_ok=True)
        with open(mark, "w"):
            pass
        # By links, so that it is small; they lead to where the interpreter is on the host too.
        venv.EnvBuilder(symlinks=True, with_pip=False).create(self.venv)
        os.unlink(mark)

    def _installed(self):
        """Read from the metadata itself: a second of pip less, and no code of the environment runs."""
        import glob

        found = []
        pattern = os.path.join(glob.escape(self.venv), "lib", "python*", "site-packages", "*")
        for kind, file in ((".dist-info", "METADATA"), (".egg-info", "PKG-INFO")):
            for folder in glob.glob(pattern + kind):
                fields = {}
                try:
                    with open(os.path.join(folder, file), encoding="utf-8", errors="replace") as lines:
                        for line in lines:
                            key, colon, value = line.partition(":")
                            if not colon:
                                break  # the blank line where the fields end
                            fields.setdefault(key.strip().lower(), value.strip())
                except (FileNotFoundError, NotADirectoryError):
                    continue  # what an interrupted removal left
                if fields.get("name") and fields.get("version"):
                    found.append({"name": fields["name"], "version": fields["version"]})
        return sorted(found, key=_by_name)

    def _pip(self, work, command, arguments):
        """Runs the host's pip with the environment's interpreter: what `pip --python` does, but isolated, and with one process."""
        import subprocess
        import threading

        # The plugin itself may run without site-packages, where pip is.
        where = subprocess.run(
            [sys.executable, "-I", "-c", "import pip; print(pip.__version__); print(pip.__path__[0])"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=work, universal_newlines=True,
        )
        if where.returncode:
            raise PipError("pip: not installed for %s: %s" % (sys.executable, where.stderr.strip().rpartition("\n")[2]))
        pip_version, folder = where.stdout.splitlines()
        runner = os.path.join(folder, "__pip-runner__.py")
        if tuple(int(part) for part in pip_version.split(".")[:2] if part.isdigit()) < (22, 3) or not os.path.exists(runner):
            raise PipError("pip %s of %s: too old; 22.3 or later is needed" % (pip_version, sys.executable))

        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment["TMPDIR"] = work  # the cache's file system: /tmp is small and counts as memory
        environment.setdefault("PIP_CONFIG_FILE", os.devnull)
        line = [self.python, "-I", runner, command, "--no-input", "--disable-pip-version-check", "--cache-dir", os.path.join(self.cache_dir, "pip")]
        # An empty directory to be in: no file there that a name could mean.
        empty = os.path.join(work, "empty")
        os.mkdir(empty)
        pip = subprocess.Popen(
            line + arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=empty, env=environment, universal_newlines=True, encoding="utf-8", errors="replace",
        )
        errors = []

        def pass_errors():
            for text in pip.stderr:
                sys.stderr.write(text)
                if text.startswith("ERROR:"):
                    errors.append(text[len("ERROR:"):].strip())

        thread = threading.Thread(target=pass_errors)
        thread.start()
        for text in pip.stdout:
            sys.stdout.write(text)
            words = text.split()
            if words and words[0] in ("Collecting", "Downloading", "Installing", "Uninstalling", "Found"):
                _say(text.strip())
        thread.join()
        status = pip.wait()
        if status:
            raise PipError("pip %s: %s" % (command, errors[-1] if errors else "ended with status %d" % status))


class _Work:
    """The project's lock, and a directory for one call. What a killed call left in it is removed by the next one."""

    def __init__(self, plugin):
        import hashlib

        project = hashlib.sha256(os.fsencode(plugin.venv)).hexdigest()[:16]
        self.lock = os.path.join(plugin.cache_dir, "lock-" + project)
        self.path = os.path.join(plugin.cache_dir, "tmp-" + project)

    def __enter__(self):
        import fcntl
        import shutil

        self.file = open(self.lock, "a")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another call in this project")
            fcntl.flock(self.file, fcntl.LOCK_EX)
        shutil.rmtree(self.path, ignore_errors=True)
        os.mkdir(self.path, 0o700)
        return self.path

    def __exit__(self, *_):
        import shutil

        shutil.rmtree(self.path, ignore_errors=True)
        self.file.close()


def _say(message):
    import upm

    upm.progress(message)


def _matched(pattern, value):
    import re

    found = re.fullmatch(pattern, value) if isinstance(value, str) and len(value) <= 512 else None
    if found is None:
        raise PipError("%.80r: not accepted; see the method's schema" % (value,))
    return found


def _normal(name):
    import re

    return re.sub(r"[-_.]+", "-", name).lower()


def _by_name(entry):
    return _normal(entry["name"])
