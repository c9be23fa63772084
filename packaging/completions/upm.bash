# bash completion of upm: plugins and methods come from the configuration that the command line names.

_upm() {
    local cur prev words cword
    COMPREPLY=()
    cur=${COMP_WORDS[COMP_CWORD]}
    prev=${COMP_WORDS[COMP_CWORD-1]}

    local value='--config --via --project --timeout --request-id --may --since --plugin'
    case $prev in
        --config | --via) COMPREPLY=($(compgen -f -- "$cur")); compopt -o filenames 2>/dev/null; return ;;
        --project) COMPREPLY=($(compgen -d -- "$cur")); compopt -o filenames 2>/dev/null; return ;;
        --may) COMPREPLY=($(compgen -W 'read write connect syscall' -- "$cur")); return ;;
        --timeout | --request-id | --since) return ;;
    esac

    # the words so far without options, and which configuration they are about
    local at word config=() plain=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        case $word in
            --config) config=(--config "${COMP_WORDS[at+1]}"); ((at++)) ;;
            -*) [[ " $value " != *" $word "* ]] || ((at++)) ;;
            *) plain+=("$word") ;;
        esac
    done

    if [[ $prev == --plugin ]]; then
        COMPREPLY=($(compgen -W "$(_upm_list "${config[@]}")" -- "$cur"))
        return
    fi
    if [[ $cur == -* ]]; then
        local options='--config --json --help'
        case ${plain[0]-} in
            '') options='--config --via --project --timeout --request-id --verbose --json --may --since --plugin --help --version' ;;
            list | check | doctor) ;;
            audit) options='--request-id --since --plugin --config --json --help' ;;
            serve) options='--config --help' ;;
            learn) options='--config --project --timeout --verbose --json --help' ;;
            explain) options='--config --project --may --json --help' ;;
            *) options='--config --via --project --timeout --request-id --verbose --help' ;;
        esac
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
        return
    fi

    local want=()
    case ${#plain[@]}:${plain[0]-} in
        0:) want=(list explain learn check doctor audit serve $(_upm_list "${config[@]}")) ;;
        1:audit) want=(show) ;;
        1:list | 1:explain | 1:learn) want=($(_upm_list "${config[@]}")) ;;
        2:explain | 2:learn) want=($(_upm_list "${config[@]}" "${plain[1]}")) ;;
        1:[A-Z]*) want=($(_upm_list "${config[@]}" "${plain[0]}")) ;;
    esac
    COMPREPLY=($(compgen -W "${want[*]}" -- "$cur"))
}

# The plugins, or with a plugin its methods. A plugin's name is letters, digits and underscores; of the methods only
# those that a shell takes as they are: `compgen -W` expands what it is given.
_upm_list() {
    local what='[p["name"] for p in plugins]'
    [[ ${*: -1} != [A-Z]* ]] || what='[m for p in plugins for m in p["allowed_methods"]]'
    upm list --json "$@" 2>/dev/null | /usr/bin/python3 -I -S -c "
import json, re, sys
plugins = json.load(sys.stdin)['plugins']
print('\n'.join(name for name in $what if re.fullmatch('[A-Za-z0-9_]+', name)))" 2>/dev/null
}

complete -F _upm upm
