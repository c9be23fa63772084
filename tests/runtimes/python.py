"""CPython, run by upm's runner: glibc's resolver."""

import os
import sys


def double(n):
    return n * 2


def threads():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(double, [1, 2, 3])) == [2, 4, 6]


def child():
    import subprocess

    assert subprocess.check_output(["/bin/echo", "x"]) == b"x\n"
    assert subprocess.check_output([sys.executable, "-c", "print(1)"]) == b"1\n"


def pool():
    import multiprocessing

    for method in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context(method).Pool(2) as workers:
            assert workers.map(double, [1, 2]) == [2, 4], method


def manager():
    import multiprocessing

    with multiprocessing.Manager() as shared:
        assert shared.dict(a=1)["a"] == 1


def aio():
    import asyncio

    async def main():
        server = await asyncio.start_server(lambda r, w: w.close(), "localhost", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        assert await reader.read() == b""
        writer.close()
        server.close()
        child = await asyncio.create_subprocess_exec("/bin/true")
        assert await child.wait() == 0
        assert await asyncio.to_thread(double, 2) == 4

    asyncio.run(main())


def file():
    import tempfile

    with tempfile.NamedTemporaryFile() as f:
        f.write(b"x")


def loopback():
    import http.server
    import threading
    import urllib.request

    server = http.server.ThreadingHTTPServer(("localhost", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert urllib.request.urlopen("http://localhost:%d/" % server.server_port).status == 200
    server.shutdown()


def names():
    import socket

    socket.getaddrinfo("localhost", 1)
    socket.getaddrinfo(socket.gethostname(), 1)


def fetch(host):
    import urllib.request

    assert urllib.request.urlopen("https://%s:%s/" % (host, os.environ["PORT"])).status == 200


def ends(acts):
    result = {"version": sys.version.split()[0]}
    for act, args in acts:
        try:
            act(*args)
            result[act.__name__] = "ok"
        except Exception as e:
            result[act.__name__] = repr(e)
    return result


class Runtime:
    def local(self):
        return ends((act, ()) for act in (threads, child, pool, manager, aio, file, loopback, names))

    def granted(self):
        return ends([(fetch, ("good.test",))])

    def denied(self):
        return ends([(fetch, ("other.test",))])

    alone = granted
