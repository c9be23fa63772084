#!/usr/bin/node
// Node: V8, libuv's pool of threads, glibc's resolver by `lookup` and c-ares by `resolve4`.
const [dns, fs, http, https, net, os, path] = ["dns", "fs", "http", "https", "net", "os", "path"].map(require);
const { Worker } = require("worker_threads");
const { PORT } = process.env;

const local = {
  threads: async () => {
    const one = (n) => new Promise((done, failed) => {
      new Worker(`require("worker_threads").parentPort.postMessage(${n} * 2)`, { eval: true }).on("message", done).on("error", failed);
    });
    if ((await Promise.all([1, 2, 3].map(one))).join() !== "2,4,6") throw Error("wrong");
    await new Promise((done, failed) => require("crypto").pbkdf2("a", "b", 10, 16, "sha256", (e) => (e ? failed(e) : done())));
  },
  child: () => require("child_process").execFileSync("/bin/echo", ["x"]),
  file: () => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), "t-"));
    fs.writeFileSync(`${dir}/a`, "x");
    fs.rmSync(dir, { recursive: true });
  },
  loopback: async () => {
    const server = http.createServer((_, answer) => answer.end("x"));
    await new Promise((done) => server.listen(0, "localhost", done));
    const got = await (await fetch(`http://localhost:${server.address().port}/`)).text();
    server.closeAllConnections();
    server.close();
    if (got !== "x") throw Error(got);
  },
  names: async () => [await dns.promises.lookup("localhost"), await dns.promises.lookup(os.hostname())],
  resolver: async () => [await dns.promises.resolve4("localhost"), await dns.promises.resolve4(os.hostname())],
};
const remote = (host) => ({
  fetch: () => new Promise((done, failed) => {
    https.get({ host, port: PORT, path: "/" }, (answer) => { answer.resume(); done(answer.statusCode); }).on("error", failed);
  }),
  resolver: () => dns.promises.resolve4(host),
});

const frames = new net.Socket({ fd: 3 });
let call = "";
frames.on("data", async (bytes) => {
  call += bytes;
  if (!call.endsWith("\n")) return;
  const { method } = JSON.parse(call);
  const result = { version: process.version };
  const acts = method === "local" ? local : remote(method === "denied" ? "other.test" : "good.test");
  for (const [name, act] of Object.entries(acts)) {
    try { await act(); result[name] = "ok"; } catch (e) { result[name] = String(e); }
  }
  frames.end(`${JSON.stringify({ type: "result", result })}\n`);
});
