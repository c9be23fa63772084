# made by `cargo xtask docs`; what is written by hand is in xtask/completions
# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_upm_global_optspecs
    string join \n config= project= timeout= request-id= v/verbose via= h/help V/version
end

function __fish_upm_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_upm_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_upm_using_subcommand
    set -l cmd (__fish_upm_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c upm -n "__fish_upm_needs_command" -l config -d 'Configuration file' -r -F
complete -c upm -n "__fish_upm_needs_command" -l project -d 'Directory to work on, instead of project_root; projects must allow it' -r -f -a "(__fish_complete_directories)"
complete -c upm -n "__fish_upm_needs_command" -l timeout -d 'Shorten the time limit: a number and ms, s, m or h' -r
complete -c upm -n "__fish_upm_needs_command" -l request-id -d 'UUID of the answer and the audit records, instead of a new one' -r
complete -c upm -n "__fish_upm_needs_command" -l via -d 'Let the service at this socket make the call; it has its own configuration' -r -F
complete -c upm -n "__fish_upm_needs_command" -s v -l verbose -d 'Show the plugin\'s stderr as it comes'
complete -c upm -n "__fish_upm_needs_command" -s h -l help -d 'Print help'
complete -c upm -n "__fish_upm_needs_command" -s V -l version -d 'Print version'
complete -c upm -n "__fish_upm_needs_command" -f -a "list" -d 'List the configured plugins and their allowed methods'
complete -c upm -n "__fish_upm_needs_command" -f -a "explain" -d 'Show what a call may do, and which line of the configuration says so'
complete -c upm -n "__fish_upm_needs_command" -f -a "learn" -d 'Make a call, and propose the configuration change that it needs'
complete -c upm -n "__fish_upm_needs_command" -f -a "check" -d 'Check the configuration and every plugin'
complete -c upm -n "__fish_upm_needs_command" -f -a "doctor" -d 'Check what this host offers for each layer of the sandbox'
complete -c upm -n "__fish_upm_needs_command" -f -a "audit" -d 'Show the records of calls'
complete -c upm -n "__fish_upm_needs_command" -f -a "serve" -d 'Answer one call of the client that connected to the service\'s socket'
complete -c upm -n "__fish_upm_needs_command" -f -a "help" -d 'Print help of upm, or of a command'
complete -c upm -n "__fish_upm_using_subcommand list" -l config -d 'Configuration file' -r -F
complete -c upm -n "__fish_upm_using_subcommand list" -s h -l help -d 'Print help'
complete -c upm -n "__fish_upm_using_subcommand list" -l json -d 'Print JSON instead of text'
complete -c upm -n "__fish_upm_using_subcommand explain" -l project -d 'Directory to work on, instead of project_root; projects must allow it' -r -f -a "(__fish_complete_directories)"
complete -c upm -n "__fish_upm_using_subcommand explain" -l may -d 'Only print whether the call may do this: \'read /PATH\', \'write /PATH\', \'connect HOST:PORT\', \'syscall NAME\'' -r -f -a "read\t''
write\t''
connect\t''
syscall\t''"
complete -c upm -n "__fish_upm_using_subcommand explain" -l config -d 'Configuration file' -r -F
complete -c upm -n "__fish_upm_using_subcommand explain" -s h -l help -d 'Print help'
complete -c upm -n "__fish_upm_using_subcommand explain" -l json -d 'Print JSON instead of text'
complete -c upm -n "__fish_upm_using_subcommand learn" -l config -d 'Configuration file' -r -F
complete -c upm -n "__fish_upm_using_subcommand learn" -l project -d 'Directory to work on, instead of project_root; projects must allow it' -r -f -a "(__fish_complete_directories)"
complete -c upm -n "__fish_upm_using_subcommand learn" -l timeout -d 'Shorten the time limit: a number and ms, s, m or h' -r
complete -c upm -n "__fish_upm_using_subcommand learn" -l request-id -d 'UUID of the answer and the audit records, instead of a new one' -r
complete -c upm -n "__fish_upm_using_subcommand learn" -s h -l help -d 'Print help'
complete -c upm -n "__fish_upm_using_subcommand learn" -s v -l verbose -d 'Show the plugin\'s stderr as it comes'
complete -c upm -n "__fish_upm_using_subcommand learn" -l json -d 'Print JSON instead of text'
complete -c upm -n "__fish_upm_using_subcommand check" -l config -d 'Configuration file' -r -F
complete -c upm -n "__fish_upm_using_subcommand check" -s h -l help -d 'Print help'
complete -c upm -n "__fish_upm_using_subcommand check" -l json -d 'Print JSON instead of text'
complete -c upm -n "__fish_upm_using_subcommand doctor" -l config -d 'Configuration file' -r -F
complete -c upm -n "__fish_upm_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c upm -n "__fish_upm_using_subcommand doctor" -l json -d 'Print JSON instead of text'
complete -c upm -n "__fish_upm_using_subcommand audit" -l request-id -d 'Only this call' -r
complete -c upm -n "__fish_upm_using_subcommand audit" -l since -d 'Only calls that began since then: 90s, 15m, 1h, 2d, 1w ago; today; yesterday; 2026-11-24, 2026-11-24T13:00 (of this host); 2026-11-24T13:00:00Z' -r
complete -c upm -n "__fish_upm_using_subcommand audit" -l plugin -d 'Only calls of this plugin' -r
complete -c upm -n "__fish_upm_using_subcommand audit" -l config -d 'Configuration file' -r -F
complete -c upm -n "__fish_upm_using_subcommand audit" -s h -l help -d 'Print help'
complete -c upm -n "__fish_upm_using_subcommand audit" -l json -d 'Print JSON instead of text'
complete -c upm -n "__fish_upm_using_subcommand serve" -l config -d 'Configuration file' -r -F
complete -c upm -n "__fish_upm_using_subcommand serve" -s h -l help -d 'Print help'
complete -c upm -n "__fish_upm_using_subcommand help" -s h -l help -d 'Print help'
complete -c upm -n __upm_calls -l config -d 'Configuration file' -r -F
complete -c upm -n __upm_calls -l project -d 'Directory to work on, instead of project_root; projects must allow it' -r -f -a "(__fish_complete_directories)"
complete -c upm -n __upm_calls -l timeout -d 'Shorten the time limit: a number and ms, s, m or h' -r
complete -c upm -n __upm_calls -l request-id -d 'UUID of the answer and the audit records, instead of a new one' -r
complete -c upm -n __upm_calls -l via -d 'Let the service at this socket make the call; it has its own configuration' -r -F
complete -c upm -n __upm_calls -s v -l verbose -d 'Show the plugin\'s stderr as it comes'
complete -c upm -n __upm_calls -s h -l help -d 'Print help'

# Plugins and methods come from the configuration that the command line names.

# the words so far without options and their values
function __upm_words
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
        else if contains -- $word --config --may --plugin --project --request-id --since --timeout --via
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
            else if contains -- $words[1] list explain learn
                __upm_list
            else if contains -- $words[1] help
                string split ' ' 'list explain learn check doctor audit serve help'
            else if test $words[1] = audit
                echo show
            end
        case 2
            contains -- $words[1] explain learn; and __upm_list $words[2]
    end
end

complete -c upm -f
complete -c upm -a '(__upm_next)'
complete -c upm -l plugin -x -a '(__upm_list)'
