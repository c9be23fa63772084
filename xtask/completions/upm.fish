# Plugins and methods come from the configuration that the command line names.

# the words so far without options and their values
function __upm_words
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
        else if contains -- $word @VALUES@
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

function __upm_calls
    string match -qr '^[A-Z]' -- (__upm_words)[1]
end

# the words that may stand at this place
function __upm_next
    set -l words (__upm_words)
    switch (count $words)
        case 0
            __upm_list
        case 1
            if string match -qr '^[A-Z]' -- $words[1]
                __upm_list $words[1]
            else if contains -- $words[1] @WITH_PLUGIN@
                __upm_list
            else if contains -- $words[1] @WITH_COMMAND@
                string split ' ' '@COMMANDS@'
            else if test $words[1] = audit
                echo show
            end
        case 2
            contains -- $words[1] @WITH_METHOD@; and __upm_list $words[2]
    end
end

complete -c upm -f
complete -c upm -a '(__upm_next)'
complete -c upm -l plugin -x -a '(__upm_list)'
