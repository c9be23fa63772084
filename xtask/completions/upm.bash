# Plugins and methods come from the configuration that the command line names. `_upm_options` is asked for the rest,
# without values of options among the words.
_upm() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local at word is_value='' config=() plain=()
    COMPREPLY=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        case $word in
            @VALUES@)
                ((++at < COMP_CWORD)) || is_value=yes
                [[ $word != --config ]] || config=(--config "${COMP_WORDS[at]}")
                ;;
            -*) ;;
            *) plain+=("$word") ;;
        esac
    done

    if [[ $is_value && $prev == --plugin ]]; then
        COMPREPLY=($(compgen -W "$(_upm_list "${config[@]}")" -- "$cur"))
    elif [[ $is_value || $cur == -* ]]; then
        [[ ${plain[0]-} != [A-Z]* ]] || plain=(PLUGIN)
        local COMP_WORDS=(upm "${plain[@]}" ${is_value:+"$prev"} "$cur")
        local COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _upm_options upm "$cur" "$prev"
        [[ ! $is_value ]] || compopt -o filenames 2>/dev/null
    else
        local want=()
        case ${#plain[@]}:${plain[0]-} in
            0:) want=(@COMMANDS@ $(_upm_list "${config[@]}")) ;;
            1:audit) want=(show) ;;
            1:@WITH_COMMAND@) want=(@COMMANDS@) ;;
            1:[A-Z]*) want=($(_upm_list "${config[@]}" "${plain[0]}")) ;;
            1:*)
                case ${plain[0]} in
                    @WITH_PLUGIN@) want=($(_upm_list "${config[@]}")) ;;
                esac
                ;;
            2:*)
                case ${plain[0]} in
                    @WITH_METHOD@) want=($(_upm_list "${config[@]}" "${plain[1]}")) ;;
                esac
                ;;
        esac
        COMPREPLY=($(compgen -W "${want[*]}" -- "$cur"))
    fi
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
