"""Runs one method of one plugin class. Reads a call frame from fd 3, answers there, and ends.

It is compiled in every call, and importing `json`, `re`, `inspect`, `traceback`, `asyncio` takes longer than everything else
here: only built-in modules are imported at the start, and rarely needed code is compiled on demand (`RARE`).

The result is sent first. Then the process ends like any Python process: exit hooks of threads, the end of all non-daemon
threads, `atexit`. None of that can change the answer.
"""
import posix
import sys

RARE = '''
def failed(error):
    """The line that reports a failure."""
    if isinstance(error, Refused):
        return encode({"type": "error", "kind": error.args[0], "message": clean(error.args[1], 8192), "traceback": None})
    try:
        message = str(error)
    except BaseException:
        message = "(its message is not available)"
    frame = {"type": "error", "kind": "plugin_raised", "traceback": None, "details": {"type": clean(type(error).__name__, 256)}}
    frame["message"] = clean(type(error).__name__ + (": " if message else "") + message, 8192)
    try:
        if isinstance(error, OSError) and isinstance(error.errno, int):
            frame["details"].update(details_of(error))
        inner = error
        for _ in range(8):  # its cause, or the exception that was being handled
            inner = inner.__cause__ or (None if inner.__suppress_context__ else inner.__context__)
            if inner is None:
                break
            is_os = isinstance(inner, OSError) and isinstance(inner.errno, int)
            if is_os or isinstance(inner, MemoryError):
                frame["details"]["cause"] = {"type": clean(type(inner).__name__, 256), **(details_of(inner) if is_os else {})}
                break
        frame["traceback"] = traceback_of(error)
    except BaseException:  # out of memory, or an error in the plugin's __str__, __repr__
        pass
    return encode(frame)

def details_of(error):
    """An OSError's details for programs."""
    import errno, os
    found = {"errno": error.errno, "errno_name": errno.errorcode.get(error.errno)}
    if error.filename is not None:
        name = error.filename
        found["filename"] = clean(str(name) if isinstance(name, int) else os.fsdecode(name))
    return found

def traceback_of(error):
    """The traceback as Python prints it, from the plugin's first frame; only its start and end if it is long."""
    import traceback
    tb = error.__traceback__
    while tb is not None:
        name = tb.tb_frame.f_code.co_filename
        if name != __file__ and "/asyncio/" not in name and not name.startswith("<frozen importlib"):
            break
        tb = tb.tb_next
    text = clean("".join(traceback.format_exception(type(error), error, tb)))
    if len(text) > 65536:
        text = "%s\\n[... %d characters left out ...]\\n%s" % (text[:32768], len(text) - 65536, text[-32768:])
    return text

def wait_for(awaitable):
    """The value of a coroutine or another awaitable."""
    import asyncio
    async def main():
        return await awaitable
    return asyncio.run(main())
'''


class Refused(Exception):
    """A failure with its own `kind`."""


def rare(name):
    if name not in globals():
        exec(compile(RARE, __file__, "exec"), globals())
    return globals()[name]


def codec():
    """(decode, encode): like `json.loads` and `json.dumps`, but without importing `json` (6 ms) if `_json` is as expected."""
    try:
        from _json import encode_basestring, make_encoder, make_scanner

        class Context:
            strict, object_hook, object_pairs_hook, memo = True, None, None, {}
            parse_float, parse_int, parse_constant = float, int, None

        def no(value):
            raise TypeError("an object of type %s is not JSON serializable" % type(value).__name__)

        scan = make_scanner(Context)
        chunks = make_encoder(None, no, encode_basestring, None, ":", ",", False, False, False)
        if scan('{"a":[1.5]}', 0)[0] != {"a": [1.5]} or "".join(chunks({"a": (1.5, None)}, 0)) != '{"a":[1.5,null]}':
            raise ImportError
        return lambda text: scan(text, 0)[0], lambda value: "".join(chunks(value, 0)).encode()
    except (ImportError, AttributeError, TypeError, ValueError):
        import json
        dump = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
        return json.loads, lambda value: dump.encode(value).encode()


def check(value, depth=100):
    """Refuses values that `encode` accepts but a strict reader would refuse or read as another value."""
    if not depth:
        raise ValueError("nested deeper than 100 levels, or contains itself")
    if isinstance(value, dict):
        names = {
            key if isinstance(key, str) else ("null" if key is None else repr(key).lower() if isinstance(key, bool) else repr(key))
            for key in value
        }
        if len(names) != len(value):
            raise ValueError("two keys of an object are equal as strings")
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        value = (value,)
    for item in value:
        if isinstance(item, (dict, list, tuple)):
            check(item, depth - 1)
        elif isinstance(item, int) and not -(1 << 63) <= item < 1 << 64:
            raise ValueError("an integer does not fit 64 bits; return it as a string")


def clean(text, limit=None):
    """Text that can be encoded as UTF-8."""
    return text[:limit].encode("utf-8", "backslashreplace").decode()


def send(line, last=False):
    global ANSWERED
    if posix.getpid() != OWN_PID:  # a child that the plugin forked must not answer
        return
    line = memoryview(line + b"\n")
    with LOCK:
        if ANSWERED:  # a thread or an exit handler may still report progress
            return
        ANSWERED = last
        while line:
            line = line[posix.write(3, line):]


def progress(message, fraction=None):
    """`upm.progress`: reports progress; `fraction` is 0.0 to 1.0, or None if unknown."""
    if fraction is not None:
        fraction = min(1.0, max(0.0, float(fraction)))
    send(encode({"type": "progress", "message": clean(str(message), 4096), "fraction": fraction}))


def load(plugin, init):
    """The plugin's class."""
    name = init["module"]
    sys.path.insert(0, init["path"])
    helper = type(sys)("upm", "What a plugin may import from its runner.")
    helper.progress = progress
    try:
        if name.partition(".")[0] == "upm":  # the plugin's own package has that name: add the function to it
            helper = __import__("upm")
            if not hasattr(helper, "progress"):
                helper.progress = progress
        sys.modules["upm"] = helper
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name and (name + ".").startswith(error.name + "."):
            raise Refused("module_not_found", "%s: no such module under %s" % (name, init["path"])) from None
        raise
    found = getattr(sys.modules[name], plugin, None)
    if not isinstance(found, type):
        what = "no such class" if found is None else "not a class"
        raise Refused("class_not_found", "%s: %s in module %s" % (plugin, what, name))
    return found


def accepted(function, names):
    """Those of `names` that a Python function accepts by keyword."""
    while True:
        inner = getattr(function, "__wrapped__", None)
        if inner is None and not hasattr(function, "__code__"):
            inner = getattr(function, "func", None)  # functools.partial
        if inner is None:
            break
        function = inner
    code = getattr(function, "__code__", None)
    if code is None:  # written in C
        return []
    if code.co_flags & 8:  # **kwargs
        return names
    takes = code.co_varnames[code.co_posonlyargcount:code.co_argcount + code.co_kwonlyargcount]
    return [name for name in names if name in takes]


def construct(cls, init):
    names = ["project_root", "cache_dir", "policy", "fernet_lib"]
    if cls.__new__ is not object.__new__ and hasattr(cls.__new__, "__code__"):
        names = accepted(cls.__new__, names)
        if cls.__init__ is not object.__init__:
            names = accepted(cls.__init__, names)
    else:
        names = accepted(cls.__init__, names)
    values = {name: init.get(name) for name in names}
    if "fernet_lib" in values and init.get("fernet"):
        try:
            from cryptography import fernet
        except ModuleNotFoundError as error:
            raise Refused("module_not_found", "cryptography.fernet is not available in %s (%s); install it, or set fernet = false" % (sys.executable, error)) from None
        values["fernet_lib"] = fernet
    return cls(**values)


def version_of(plugin, module):
    """JSON of the plugin's version, `null` if it has none. Failures here do not fail the call."""
    try:
        version = getattr(plugin, "version", None)
        code = getattr(version, "__code__", None)
        if code is not None:  # a method: called if it is a plain function without required arguments
            needs = code.co_argcount - len(version.__defaults__ or ()) - hasattr(version, "__self__")
            needs += code.co_kwonlyargcount - len(version.__kwdefaults__ or ())
            version = None if needs > 0 or code.co_flags & 0x2A0 else version()  # generator, coroutine, both
        elif callable(version):
            version = None
        if version is None:
            version = getattr(plugin, "__version__", None)
        if version is None:
            version = getattr(sys.modules[module], "__version__", None)
        check(version)
        text = encode(version)
        return text if len(text) <= 1024 else b"null"
    except BaseException:
        return b"null"


def run(call):
    """The line that answers the call."""
    name, args, kwargs, init = call["method"], call["args"], call["kwargs"], call["init"]
    cls = load(call["plugin"], init)
    refused = Refused("method_not_found", "%s: %s has no such method" % (name, call["plugin"]))
    if name.startswith("_") and name != "__introspect__":
        raise refused
    plugin = construct(cls, init)
    describes = name in ("version", "info", "meta", "__introspect__")
    declared = next((base.__dict__[name] for base in type(plugin).__mro__ if name in base.__dict__), None)
    if not describes and isinstance(declared, (type, property)):
        raise refused
    try:
        value = getattr(plugin, name)
    except AttributeError:
        if declared is not None:
            raise  # the property raised it
        raise refused from None
    if callable(value):
        if isinstance(value, type) and not describes:
            raise refused
        value = value(*args, **kwargs)
        if hasattr(type(value), "__await__"):
            value = rare("wait_for")(value)
    elif not describes:
        raise refused
    elif args or kwargs:
        raise TypeError("%s is an attribute or a property and takes no arguments" % name)
    try:
        check(value)
        text = encode(value)
    except MemoryError:
        raise
    except Exception as error:
        raise Refused("result_not_serializable", "the result of %s is not serializable as JSON: %s" % (name, clean(str(error), 1024))) from None
    version = text if name == "version" and not args and not kwargs and len(text) <= 1024 else version_of(plugin, init["module"])
    return b'{"type":"result","result":%b,"plugin_version":%b}' % (text, version)


def main():
    posix.set_inheritable(3, False)
    data = b""
    parts = []
    while not data.endswith(b"\n"):
        data = posix.read(3, 1 << 20)
        if not data:
            posix._exit(1)
        parts.append(data)
    call = decode(b"".join(parts).decode())
    try:
        line = run(call)
    except BaseException as error:
        if posix.getpid() != OWN_PID:
            raise
        try:
            line = rare("failed")(error)
        except MemoryError:  # the plugin's frames hold the memory
            error.__traceback__ = error.__context__ = error.__cause__ = None
            line = rare("failed")(error)
    # Sent before the handlers run: one that hangs or raises cannot lose the result.
    send(line, last=True)
    try:
        # Like Py_FinalizeEx, in the same order. An exception is printed, and the others still run.
        leave("threading", "_shutdown")
        leave("atexit", "_run_exitfuncs")
    finally:
        for stream in sys.stdout, sys.stderr:
            try:
                stream.flush()
            except BaseException:
                pass
        posix._exit(0)


def leave(module, function):
    try:
        if module in sys.modules:
            getattr(sys.modules[module], function)()
    except BaseException:
        try:
            sys.__excepthook__(*sys.exc_info())
        except BaseException:
            pass


# Processes that multiprocessing starts also import this, under another name.
if __name__ == "__main__":
    from _thread import allocate_lock
    LOCK, ANSWERED = allocate_lock(), False
    OWN_PID = posix.getpid()
    decode, encode = codec()
    main()
