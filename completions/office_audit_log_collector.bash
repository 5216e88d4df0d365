# Completions for bash: /usr/share/bash-completion/completions/office_audit_log_collector

_office_audit_log_collector() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command='' typed
    # After --option= the value is a separate word.
    [ "$word" = = ] && word=''
    [ "$before" = = ] && before=${COMP_WORDS[COMP_CWORD - 2]}
    case $before in
        -c | --config | --credentials | --html | --files)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        --install-to)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$word")
            return
            ;;
        --tenant | --shard | --hours)
            return
            ;;
        schedule)
            mapfile -t COMPREPLY < <(compgen -W 'systemd cron' -- "$word")
            return
            ;;
    esac
    for typed in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $typed in
            check | status | verify | schedule) command=$typed ;;
        esac
    done
    local options='-c --config --credentials --tenant --shard --hours --dry-run --stdout --skip-if-locked
        -v --verbose -q --quiet -V --version -h --help'
    case $command in
        '') options+=' check status verify schedule' ;;
        check) options+=' --offline' ;;
        status) options+=' --json --html' ;;
        verify) options+=' --content --files --repair --json' ;;
        schedule) options+=' --install-to' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
}

complete -F _office_audit_log_collector office_audit_log_collector
