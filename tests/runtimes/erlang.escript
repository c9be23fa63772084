#!/usr/bin/escript
%% Erlang: its resolver by an own process (inet_gethost, glibc's), and its own one (inet_res).
main(_) ->
    Frames = open_port({fd, 3, 3}, [{line, 65536}, binary]),
    Call = receive {Frames, {data, {eol, Line}}} -> Line end,
    Is = fun(Method) -> binary:match(Call, <<"\"method\":\"", Method/binary, "\"">>) =/= nomatch end,
    Host = case Is(<<"denied">>) of true -> "other.test"; false -> "good.test" end,
    Acts = case Is(<<"local">>) of true -> local(); false -> remote(Host) end,
    Ends = [[",\"", Name, "\":\"", act(Act), "\""] || {Name, Act} <- Acts],
    port_command(Frames, ["{\"type\":\"result\",\"result\":{\"version\":\"", erlang:system_info(otp_release), "\"", Ends, "}}\n"]),
    timer:sleep(100).

act(Act) ->
    try Act(), "ok" catch _:Why -> re:replace(io_lib:format("~0p", [Why]), "[\"\\\\\n]", " ", [global]) end.

local() ->
    {ok, Own} = inet:gethostname(),
    [{"threads", fun() -> Me = self(), [spawn(fun() -> Me ! N end) || N <- [1, 2, 3]], [receive N -> N end || N <- [1, 2, 3]] end},
     {"child", fun() -> "x\n" = os:cmd("/bin/echo x") end},
     {"file", fun() -> Name = "/tmp/t-" ++ os:getpid(), ok = file:write_file(Name, "x"), ok = file:delete(Name) end},
     {"loopback", fun() ->
        {ok, S} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}, {active, false}]),
        {ok, Port} = inet:port(S),
        {ok, C} = gen_tcp:connect("localhost", Port, [{active, false}]),
        {ok, A} = gen_tcp:accept(S),
        ok = gen_tcp:send(C, "x"),
        {ok, "x"} = gen_tcp:recv(A, 1) end},
     {"names", fun() -> {ok, _} = inet:getaddr("localhost", inet), {ok, _} = inet:getaddr(Own, inet) end},
     {"resolver", fun() -> {ok, _} = inet_res:getbyname("localhost", a), {ok, _} = inet_res:getbyname(Own, a) end}].

remote(Host) ->
    [{"fetch", fun() ->
        {ok, _} = application:ensure_all_started(ssl),
        Options = [{verify, verify_peer}, {cacertfile, os:getenv("SSL_CERT_FILE")}, {active, false}, {packet, line}],
        {ok, C} = ssl:connect(Host, list_to_integer(os:getenv("PORT")), Options),
        ok = ssl:send(C, "GET / HTTP/1.0\r\n\r\n"),
        {ok, "HTTP/1.0 200 " ++ _} = ssl:recv(C, 0) end},
     {"resolver", fun() -> {ok, _} = inet_res:getbyname(Host, a) end}].
