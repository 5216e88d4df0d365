# Completions for fish: /usr/share/fish/vendor_completions.d/office_audit_log_collector.fish

set -l commands check status schedule
complete -c office_audit_log_collector -f
complete -c office_audit_log_collector -s c -l config -r -F -d 'The configuration file, YAML'
complete -c office_audit_log_collector -l credentials -r -F -d 'A second YAML file, with the secrets'
complete -c office_audit_log_collector -l tenant -x -d 'Only this tenant'
complete -c office_audit_log_collector -l shard -x -d 'Only the tenants of shard I/N'
complete -c office_audit_log_collector -l hours -x -d 'The number of hours to look back'
complete -c office_audit_log_collector -l dry-run -d 'List what would be downloaded'
complete -c office_audit_log_collector -l stdout -d 'The records of the period to standard output'
complete -c office_audit_log_collector -l skip-if-locked -d 'Exit with 0 if another pass holds the lock'
complete -c office_audit_log_collector -s v -l verbose -d 'Log details that help to find the cause of a problem'
complete -c office_audit_log_collector -s q -l quiet -d 'Log errors only'
complete -c office_audit_log_collector -s V -l version -d 'Print the version'
complete -c office_audit_log_collector -s h -l help -d 'Print the options'
complete -c office_audit_log_collector -n "not __fish_seen_subcommand_from $commands" -a check -d 'Check everything that a pass needs'
complete -c office_audit_log_collector -n "not __fish_seen_subcommand_from $commands" -a status -d 'The state of each feed'
complete -c office_audit_log_collector -n "not __fish_seen_subcommand_from $commands" -a schedule -d 'Units or a crontab'
complete -c office_audit_log_collector -n '__fish_seen_subcommand_from check' -l offline -d 'Check without the network'
complete -c office_audit_log_collector -n '__fish_seen_subcommand_from status' -l json -d 'Print JSON'
complete -c office_audit_log_collector -n '__fish_seen_subcommand_from status' -l html -r -F -d 'Write a page for a browser'
complete -c office_audit_log_collector -n '__fish_seen_subcommand_from schedule' -a 'systemd cron'
