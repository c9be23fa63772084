#!/usr/bin/ruby
# Ruby: glibc's resolver, and its own one in Ruby (resolv).
require "json"
require "net/http"
require "resolv"
require "socket"
require "tempfile"

LOCAL = {
  threads: -> { raise "wrong" unless [1, 2, 3].map { |n| Thread.new { n * 2 } }.map(&:value) == [2, 4, 6] },
  child: -> { raise "wrong" unless `/bin/echo x` == "x\n" },
  fork: -> { Process.wait(fork { exit! 0 }) },
  file: -> { Tempfile.create { |f| f.write("x") } },
  loopback: lambda {
    server = TCPServer.new("localhost", 0)
    Thread.new { server.accept.tap { |c| c.gets; c.write("HTTP/1.0 200 OK\r\n\r\nx"); c.close } }
    raise "wrong" unless Net::HTTP.get(URI("http://localhost:#{server.addr[1]}/")) == "x"
  },
  names: -> { [Addrinfo.getaddrinfo("localhost", 1), Addrinfo.getaddrinfo(Socket.gethostname, 1)] },
  resolver: -> { Resolv::DNS.open { |dns| ["localhost", Socket.gethostname].map { |name| dns.getaddress(name) } } },
}.freeze

def remote(host)
  {
    fetch: -> { Net::HTTP.start(host, ENV["PORT"].to_i, use_ssl: true) { |http| http.get("/").value } },
    resolver: -> { Resolv::DNS.open { |dns| dns.getaddress(host) } },
  }
end

frames = IO.for_fd(3, "r+")
method = JSON.parse(frames.gets)["method"]
acts = method == "local" ? LOCAL : remote(method == "denied" ? "other.test" : "good.test")
result = acts.to_h do |name, act|
  act.call
  [name, "ok"]
rescue StandardError => e
  [name, "#{e.class}: #{e.message}"]
end
frames.puts({ type: "result", result: { version: RUBY_VERSION }.merge(result) }.to_json)
