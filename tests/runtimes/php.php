#!/usr/bin/php
<?php
// PHP: glibc's resolver, and libresolv by `dns_get_record`.
set_error_handler(function ($_, $text) { throw new ErrorException($text); });

function ensure($truth, $why = "wrong") { if (!$truth) throw new Exception($why); }
function lookup($name) { ensure(gethostbyname($name) !== $name, "$name: no address"); }

$local = [
    "child" => fn() => ensure(shell_exec("/bin/echo x") === "x\n"),
    "fork" => function () { $p = pcntl_fork(); if ($p === 0) exit(0); pcntl_waitpid($p, $_); },
    "extension" => fn() => posix_getpid(),
    "file" => function () { $f = tempnam(sys_get_temp_dir(), "t"); file_put_contents($f, "x"); unlink($f); fwrite(tmpfile(), "x"); },
    "loopback" => function () {
        $s = stream_socket_server("tcp://localhost:0");
        $c = stream_socket_client("tcp://" . stream_socket_get_name($s, false));
        $a = stream_socket_accept($s);
        fwrite($c, "x\n");
        ensure(fgets($a) === "x\n");
    },
    "names" => fn() => array_map('lookup', ["localhost", gethostname()]),
    "resolver" => fn() => array_map(fn($name) => ensure(dns_get_record($name, DNS_A), "$name: no record"), ["localhost", gethostname()]),
];
$remote = fn($host) => [
    "fetch" => fn() => ensure(strlen(file_get_contents("https://$host:" . getenv("PORT") . "/")) > 100),
    "resolver" => fn() => ensure(dns_get_record($host, DNS_A), "no record"),
];

$frames = fopen("php://fd/3", "r+");
$method = json_decode(fgets($frames))->method;
$result = ["version" => PHP_VERSION];
foreach ($method === "local" ? $local : $remote($method === "denied" ? "other.test" : "good.test") as $name => $act) {
    try { $act(); $result[$name] = "ok"; } catch (Throwable $e) { $result[$name] = $e->getMessage(); }
}
fwrite($frames, json_encode(["type" => "result", "result" => $result]) . "\n");
