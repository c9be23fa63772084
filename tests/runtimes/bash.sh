#!/bin/bash
# bash: glibc's resolver. It speaks no TLS, and cannot listen.
IFS= read -r call <&3
result="\"version\":\"$BASH_VERSION\""
act() { # NAME COMMAND…
    local said
    said=$("${@:2}" 2>&1) && said=ok
    result+=",\"$1\":\"$(printf %s "$said" | tr -c '[:alnum:] .:/_-' ' ')\""
}
jobs() { for n in 1 2 3; do (exit "$n") & done; wait "$!"; [ $? = 3 ]; }
file() { local f; f=$(mktemp) && echo x >"$f" && read -r _ <"$f" && rm "$f"; }
substitution() { [ "$(cat <(echo x))" = x ] && [ "$(cat <<<x)" = x ]; }
names() { getent ahosts localhost && getent ahosts "$HOSTNAME"; }
fetch() {
    exec 4<>"/dev/tcp/$1/$PORT" || return
    printf 'GET / HTTP/1.0\r\n\r\n' >&4
    IFS= read -r line <&4 && [[ $line == *" 200 "* ]]
}
case $call in
*'"method":"local"'*) act jobs jobs; act file file; act substitution substitution; act names names ;;
*'"method":"denied"'*) act fetch fetch other.test ;;
*) act fetch fetch good.test ;;
esac
printf '{"type":"result","result":{%s}}\n' "$result" >&3
