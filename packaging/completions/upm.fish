# fish completion of upm: plugins and methods come from the configuration that the command line names.

# the words so far without options and their values
function __upm_words
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
        else if contains -- $word --config --via --project --timeout --request-id --may --since --plugin
            set skip 1
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

# the plugins, or with a plugin its methods
function __upm_list
    set -l what '[p["name"] for p in plugins]'
    if set -q argv[1]
        set what '[m for p in plugins for m in p["allowed_methods"]]'
    end
    set -l words (commandline -opc)
    set -l at (contains -i -- --config $words)
    set -l config
    if test -n "$at"; and set -q words[(math $at + 1)]
        set config --config $words[(math $at + 1)]
    end
    upm list --json $config $argv 2>/dev/null | /usr/bin/python3 -I -S -c "
import json, re, sys
plugins = json.load(sys.stdin)['plugins']
print('\n'.join(name for name in $what if re.fullmatch('[A-Za-z0-9_]+', name)))" 2>/dev/null
end

function __upm_at --argument-names count
    test (count (__upm_words)) = $count
end

function __upm_plugin_next
    set -l words (__upm_words)
    test (count $words) = 0; or begin
        test (count $words) = 1; and contains -- $words[1] list explain learn
    end
end

function __upm_methods
    set -l words (__upm_words)
    switch (count $words)
        case 1
            string match -qr '^[A-Z]' -- $words[1]; and __upm_list $words[1]
        case 2
            contains -- $words[1] explain learn; and __upm_list $words[2]
    end
end

complete -c upm -f
complete -c upm -n '__upm_at 0' -a list -d 'The configured plugins and their methods'
complete -c upm -n '__upm_at 0' -a explain -d 'What a call would be allowed'
complete -c upm -n '__upm_at 0' -a learn -d 'Make a call, and tell what it was not given'
complete -c upm -n '__upm_at 0' -a check -d 'Whether the configuration can be used'
complete -c upm -n '__upm_at 0' -a doctor -d 'What this host offers'
complete -c upm -n '__upm_at 0' -a audit -d 'What is on record of calls'
complete -c upm -n 'test (__upm_words)[1] = audit 2>/dev/null; and __upm_at 1' -a show
complete -c upm -n '__upm_at 0' -a serve -d 'Answer the caller whose connection is stdin'
complete -c upm -n __upm_plugin_next -a '(__upm_list)'
complete -c upm -a '(__upm_methods)'
complete -c upm -l config -r -F -d 'Configuration file'
complete -c upm -l via -r -F -d 'Let the service that listens there make the call'
complete -c upm -l project -x -a '(__fish_complete_directories)' -d 'Directory to work on'
complete -c upm -l timeout -x -d 'Shorten the time limit'
complete -c upm -l request-id -x -d 'UUID of the answer and the audit records'
complete -c upm -s v -l verbose -d 'Show the stderr of the plugin as it comes'
complete -c upm -l json -d 'Commands: print JSON'
complete -c upm -l may -x -a 'read write connect syscall' -d 'explain: only whether the call may do this'
complete -c upm -l since -x -d 'audit show: only calls that began since then'
complete -c upm -l plugin -x -a '(__upm_list)' -d 'audit show: only calls of this plugin'
complete -c upm -s h -l help -d 'Print help'
complete -c upm -s V -l version -d 'Print the version'
