#!/bin/sh
# Lua with LuaSocket and LuaSec: glibc's resolver. It cannot open descriptor 3.
exec lua5.4 -e '
local socket, ssl, http = require "socket", require "ssl", require "ssl.https"
local call = io.read()
local host = call:find "\"method\":\"denied\"" and "other.test" or "good.test"
local result = {string.format("\"version\":\"%s\"", _VERSION)}
local function act(name, f)
  local ok, why = pcall(f)
  table.insert(result, string.format("\"%s\":\"%s\"", name, ok and "ok" or tostring(why):gsub("[\"\\%c]", " ")))
end
if call:find "\"method\":\"local\"" then
  act("child", function() assert(io.popen("/bin/echo x"):read() == "x") end)
  act("file", function() assert(io.tmpfile()):write("x"); assert(os.remove(os.tmpname())) end)
  act("loopback", function()
    local s = assert(socket.bind("localhost", 0))
    local _, port = s:getsockname()
    local c = assert(socket.connect("localhost", port))
    assert(c:send("x\n"))
    assert(s:accept():receive() == "x")
  end)
  act("names", function() assert(socket.dns.toip("localhost")); assert(socket.dns.toip(socket.dns.gethostname())) end)
else
  act("fetch", function()
    local c = assert(socket.connect(host, tonumber(os.getenv("PORT"))))
    c = assert(ssl.wrap(c, {mode = "client", protocol = "any", verify = "peer", cafile = os.getenv("SSL_CERT_FILE")}))
    c:sni(host)
    assert(c:dohandshake())
    assert(c:send("GET / HTTP/1.0\r\n\r\n"))
    local line = assert(c:receive())
    assert(line:find(" 200 "), line)
  end)
end
print(string.format("{\"type\":\"result\",\"result\":{%s}}", table.concat(result, ",")))
' <&3 >&3
