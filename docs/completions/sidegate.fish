# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_sidegate_global_optspecs
    string join \n h/help V/version
end

function __fish_sidegate_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_sidegate_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_sidegate_using_subcommand
    set -l cmd (__fish_sidegate_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c sidegate -n "__fish_sidegate_needs_command" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_needs_command" -s V -l version -d 'Print version'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "run" -d 'Run the agent until SIGTERM; SIGHUP reloads the configuration'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "demo" -d 'Run a demo with a generated certificate, an echo backend and a web page'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "init" -d 'Write a commented starter configuration'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "import" -d 'Translate an nginx configuration, and report the result for each of its lines'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "list" -d 'Write a list of networks from a database'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "check" -d 'Report all errors and warnings of a configuration, and run its tests'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "explain" -d 'Explain why a client is admitted or refused, down to the line of the list'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "diff" -d 'Compare the files with the running configuration, and list the tunnels that a reload would close'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "apply" -d 'Replace the configuration by a checked copy: all of its files, or none'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "promote" -d 'Promote a candidate policy once every check passes'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "schema" -d 'Print the JSON Schema of the configuration files, for editors'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "reload" -d 'Make the running agent reload its files now'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "status" -d 'Show the running agent\'s state: generation, tunnels, rates, certificates, lists and warnings'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "top" -d 'Watch rates, tunnels, clients and refusals of the running agent as they change'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "log-level" -d 'Show or set the filter of the running agent\'s log'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "ban" -d 'Ban a client for a while: it is refused, and its open tunnels are closed'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "unban" -d 'Lift a ban before it expires'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "bans" -d 'List the bans in force'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "refused" -d 'Show which clients the running agent refused most, for which reasons, and by which rules'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "tunnels" -d 'List the open tunnels and exchanges of the running agent, by filter'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "close" -d 'Close tunnels and exchanges of the running agent, by filter; --dry-run counts them first'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "lapsing" -d 'List the entries of lists that lapse soon, with owner and ticket'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "upgrade" -d 'Hand over to a new process, such as that of a new version, without closing a connection'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "drain" -d 'Drain the running agent: stop accepting, close the tunnels, then exit'
complete -c sidegate -n "__fish_sidegate_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sidegate -n "__fish_sidegate_using_subcommand run" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand run" -l log -d 'The log format. `auto` is `journald` if standard error is the journal, `text` on a terminal, else `json`' -r -f -a "auto\t''
text\t''
json\t''
journald\t''"
complete -c sidegate -n "__fish_sidegate_using_subcommand run" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand demo" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand init" -l backend -d 'The backend server: http://HOST:PORT on this machine, https://HOST:PORT, or unix:/PATH' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand init" -l dir -d 'The directory to write to; created if missing' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand init" -l listen -d 'The address and port to listen on, or unix:/PATH' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand init" -l host -d 'The host name that clients request: ws.example.com, *.example.com (one label), or * for any. Default: *; with --plain, the address of --listen, or localhost' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand init" -l http -d 'What to do with plain HTTP requests' -r -f -a "refuse\t'Refuse them: only WebSockets are relayed'
forward\t'Forward them to the backend'"
complete -c sidegate -n "__fish_sidegate_using_subcommand init" -l plain -d 'Listen without TLS: behind a proxy that terminates it, or for local use only'
complete -c sidegate -n "__fish_sidegate_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and not __fish_seen_subcommand_from nginx help" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and not __fish_seen_subcommand_from nginx help" -f -a "nginx" -d 'An nginx configuration: nginx.conf, or the file of one site'
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and not __fish_seen_subcommand_from nginx help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and __fish_seen_subcommand_from nginx" -l out -d 'The directory to write to; created if missing. Existing files are never overwritten' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and __fish_seen_subcommand_from nginx" -l nginx -d 'The version of nginx that reads the file, as printed by `nginx -v`. Its defaults changed in 1.29.7; without this option those of older versions apply' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and __fish_seen_subcommand_from nginx" -l json -d 'Print the report as JSON'
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and __fish_seen_subcommand_from nginx" -l accept-opens -d 'Write the files even if they admit requests that nginx refuses (the lines marked OPENS). Guards that cannot be translated are then left out, instead of closing their routes'
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and __fish_seen_subcommand_from nginx" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and __fish_seen_subcommand_from help" -f -a "nginx" -d 'An nginx configuration: nginx.conf, or the file of one site'
complete -c sidegate -n "__fish_sidegate_using_subcommand import; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sidegate -n "__fish_sidegate_using_subcommand list; and not __fish_seen_subcommand_from from-mmdb help" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand list; and not __fish_seen_subcommand_from from-mmdb help" -f -a "from-mmdb" -d 'Write a list of the networks of countries and autonomous systems, from a MaxMind database'
complete -c sidegate -n "__fish_sidegate_using_subcommand list; and not __fish_seen_subcommand_from from-mmdb help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sidegate -n "__fish_sidegate_using_subcommand list; and __fish_seen_subcommand_from from-mmdb" -l country -d 'A country by its two letters (ISO 3166-1), like DE; repeatable. Each adds its networks' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand list; and __fish_seen_subcommand_from from-mmdb" -l asn -d 'An autonomous system by its number, like 64500; repeatable. Each adds its networks' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand list; and __fish_seen_subcommand_from from-mmdb" -l out -d 'The list to write, like policies/lists/de.cidr. Replaces only a list made by this command. Left out: standard output' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand list; and __fish_seen_subcommand_from from-mmdb" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand list; and __fish_seen_subcommand_from help" -f -a "from-mmdb" -d 'Write a list of the networks of countries and autonomous systems, from a MaxMind database'
complete -c sidegate -n "__fish_sidegate_using_subcommand list; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sidegate -n "__fish_sidegate_using_subcommand check" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand check" -l root -d 'Look for absolute paths in the files, and for /etc/sidegate/sidegate.toml, below this directory, like a checkout with etc/ in it' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand check" -l format -d 'The format of the output' -r -f -a "text\t'Text, on standard error'
json\t'One JSON array, on standard output'
github\t'GitHub workflow commands, on standard output: they annotate the lines of a pull request'"
complete -c sidegate -n "__fish_sidegate_using_subcommand check" -l off-host -d 'Check away from the serving host, as in CI: private keys are not read, and certificates, users and groups that this host lacks are named and not checked'
complete -c sidegate -n "__fish_sidegate_using_subcommand check" -l strict -d 'Treat warnings as errors'
complete -c sidegate -n "__fish_sidegate_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l root -d 'Look for absolute paths in the files, and for /etc/sidegate/sidegate.toml, below this directory, like a checkout with etc/ in it' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l request -d 'The id of a request that the running agent decided, as in a refusal\'s body, instead of a client and a URL' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l client -d 'The address of the client, or a user of this host: unix:uid=33,gid=33' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l peer -d 'A peer that connects for the client, as a balancer does; instead of --client' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l forwarded-for -d 'The forwarded header that the peer sends, as in X-Forwarded-For; empty by default' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l listener -d 'The listener that the peer connects to, where several have different peers' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l url -d 'The URL that the client opens: ws:// or wss:// for a WebSocket, http:// or https:// for plain HTTP' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l origin -d 'The Origin header that the client sends; absent by default' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l subprotocol -d 'The subprotocol that the client offers; none by default' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l identity -d 'A name of the client\'s certificate, like spiffe://example.com/ws/edge or dns:client.example.com; no certificate by default' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l at -d 'The time of the request: a date, or a time like 2027-01-01T18:00:00Z; now by default' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l off-host -d 'Check away from the serving host, as in CI: private keys are not read, and certificates, users and groups that this host lacks are named and not checked'
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l live -d 'Query the running agent, which also knows how much of each limit is left, instead of reading the files'
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -l json -d 'Print JSON instead of text'
complete -c sidegate -n "__fish_sidegate_using_subcommand explain" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand diff" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand diff" -l max-revoked -d 'Exit with 1 if a reload would close more open tunnels than this: a number, or a share like 20%' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand diff" -l staged -d 'Compare copies instead of the files: a copy of the configuration\'s folder, or copies of single files. Nothing is changed' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand diff" -l with-live -d 'With --staged: compare certificates, keys, revocation lists and live lists too that are not newer than the files'
complete -c sidegate -n "__fish_sidegate_using_subcommand diff" -l json -d 'Print JSON instead of text'
complete -c sidegate -n "__fish_sidegate_using_subcommand diff" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l accept-shrink -d 'Apply even if a list shrinks by more than its `max_shrink`; repeatable' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l override -d 'Apply even if this [[test]] of a policy fails; repeatable. It stays overridden until it passes' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l yes -d 'Apply without a question'
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l recover -d 'Only put the files right that an interrupted apply has left'
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l accept-revocations -d 'Apply even if that closes more tunnels than `[reload] max_revoked` allows'
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l accept-widening -d 'Apply even if that newly admits more addresses than `[reload] max_widened` allows'
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l allow-removal -d 'Remove the policies that the copy lacks, without a question'
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l with-live -d 'Take certificates, keys, revocation lists and live lists of the copy too that are not newer than the files'
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -l json -d 'Print JSON instead of text'
complete -c sidegate -n "__fish_sidegate_using_subcommand apply" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand promote" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand promote" -l drop-tests -d 'Promote even if the candidate lacks a [[test]] of the policy'
complete -c sidegate -n "__fish_sidegate_using_subcommand promote" -l accept-revocations -d 'Promote even if that closes more tunnels than `[reload] max_revoked` allows'
complete -c sidegate -n "__fish_sidegate_using_subcommand promote" -l accept-widening -d 'Promote even if that newly admits more addresses than `[reload] max_widened` allows'
complete -c sidegate -n "__fish_sidegate_using_subcommand promote" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand schema" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sidegate -n "__fish_sidegate_using_subcommand reload" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand reload" -l accept-shrink -d 'Reload even if this list has shrunk by more than its `max_shrink`; repeatable' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand reload" -l override -d 'Reload even if this [[test]] of a policy fails; repeatable. It stays overridden until it passes' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand reload" -l digest -d 'Reload only if the files have this digest, as `sidegate diff` prints it. Without it, an order that accepts effects shows them first' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand reload" -l wait -d 'Wait for the outcome and print it; exit with 1 if the files were rejected'
complete -c sidegate -n "__fish_sidegate_using_subcommand reload" -l accept-revocations -d 'Reload even if that closes more tunnels than `[reload] max_revoked` allows'
complete -c sidegate -n "__fish_sidegate_using_subcommand reload" -l accept-widening -d 'Reload even if that newly admits more addresses than `[reload] max_widened` allows'
complete -c sidegate -n "__fish_sidegate_using_subcommand reload" -l live -d 'Under `[reload] watch = "hold"`: publish certificates and lists marked `live` only, with all other files as they run'
complete -c sidegate -n "__fish_sidegate_using_subcommand reload" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand status" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand status" -l json -d 'Print the admin socket\'s answer as JSON'
complete -c sidegate -n "__fish_sidegate_using_subcommand status" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand top" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand top" -l interval -d 'The time between two looks, like 1s or 10s' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand top" -l rows -d 'Show at most so many rows of each table with --once and --json' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand top" -l once -d 'Print one screen as plain text and end; implied where output is not a terminal'
complete -c sidegate -n "__fish_sidegate_using_subcommand top" -l json -d 'Print the admin socket\'s answer as JSON and end'
complete -c sidegate -n "__fish_sidegate_using_subcommand top" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand log-level" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand log-level" -l for -d 'Return to the earlier filter after this time, like 10m. Left out: the filter holds until the next change or restart' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand log-level" -l json -d 'Print JSON instead of text'
complete -c sidegate -n "__fish_sidegate_using_subcommand log-level" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand ban" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand ban" -l identity -d 'Ban a name of client certificates, like spiffe://example.com/ws/edge' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand ban" -l for -d 'How long the ban lasts, like 90s, 24h or 7d. The default is one hour' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand ban" -l why -d 'The reason, for the log and for the list of bans. Clients never see it' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand ban" -l override -d 'Ban in spite of this test of a policy, of `peers` or of `loopback`; repeatable' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand ban" -l origin -d 'The program that orders the ban: operator or fail2ban' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand ban" -l forever -d 'Ban until the ban is lifted'
complete -c sidegate -n "__fish_sidegate_using_subcommand ban" -l json -d 'Print the admin socket\'s answer as JSON'
complete -c sidegate -n "__fish_sidegate_using_subcommand ban" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand unban" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand unban" -l identity -d 'The name of client certificates that was banned' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand unban" -l origin -d 'Lift only bans of this origin: operator, fail2ban or crowdsec' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand unban" -l all -d 'Lift all bans at once'
complete -c sidegate -n "__fish_sidegate_using_subcommand unban" -l if-banned -d 'Succeed if there is no such ban'
complete -c sidegate -n "__fish_sidegate_using_subcommand unban" -l json -d 'Print the admin socket\'s answer as JSON'
complete -c sidegate -n "__fish_sidegate_using_subcommand unban" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand bans" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand bans" -l accept-held -d 'Let the held bans of CrowdSec with this digest hold, which warnings and `--refused` show. Without it, the bans that are held now' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand bans" -l refused -d 'Show the decisions of CrowdSec that are not applied, and why'
complete -c sidegate -n "__fish_sidegate_using_subcommand bans" -l json -d 'Print the admin socket\'s answer as JSON'
complete -c sidegate -n "__fish_sidegate_using_subcommand bans" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand refused" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand refused" -l last -d 'Count only the refusals of this time, like 15m, 1h or 2d; all that are kept by default' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand refused" -l top -d 'Show at most so many clients, reasons and rules' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand refused" -l json -d 'Print the admin socket\'s answer as JSON'
complete -c sidegate -n "__fish_sidegate_using_subcommand refused" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l route -d 'Only those of this route' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l client -d 'Only those of clients in this network, of this address, or of these users: unix:uid=33' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l identity -d 'Only those of clients with such a certificate, written as in a policy: spiffe://example.com/ws/* or dns:client.example.com' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l policy -d 'Only those under this policy' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l older -d 'Only tunnels that have been open for this time, like 90s, 15m, 1h or 2d' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l bytes -d 'Only tunnels with at least so many bytes in both directions, like 500 or 10MiB' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l kind -d 'Only tunnels, or only exchanges' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l sort -d 'The order: id (the longest open first), bytes (the most first) or client' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l limit -d 'Show at most so many' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l after -d 'Show the page behind this id, in the same order' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -l json -d 'Print the admin socket\'s answer as JSON'
complete -c sidegate -n "__fish_sidegate_using_subcommand tunnels" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l route -d 'Only those of this route' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l client -d 'Only those of clients in this network, of this address, or of these users: unix:uid=33' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l identity -d 'Only those of clients with such a certificate, written as in a policy: spiffe://example.com/ws/* or dns:client.example.com' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l policy -d 'Only those under this policy' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l older -d 'Only tunnels that have been open for this time, like 90s, 15m, 1h or 2d' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l bytes -d 'Only tunnels with at least so many bytes in both directions, like 500 or 10MiB' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l kind -d 'Only tunnels, or only exchanges' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l code -d 'The close code that clients get; 1008 tells most of them not to come back' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l reason -d 'The reason in the Close, at most 123 bytes' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l all -d 'Close all, where no filter is given'
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l dry-run -d 'Only count what would be closed'
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -l json -d 'Print the admin socket\'s answer as JSON'
complete -c sidegate -n "__fish_sidegate_using_subcommand close" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand lapsing" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand lapsing" -l root -d 'Look for absolute paths in the files, and for /etc/sidegate/sidegate.toml, below this directory, like a checkout with etc/ in it' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand lapsing" -l within -d 'The time to look ahead, like 12h or 30d' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand lapsing" -l off-host -d 'Check away from the serving host, as in CI: private keys are not read, and certificates, users and groups that this host lacks are named and not checked'
complete -c sidegate -n "__fish_sidegate_using_subcommand lapsing" -l live -d 'Query the running agent instead of reading the files'
complete -c sidegate -n "__fish_sidegate_using_subcommand lapsing" -l json -d 'Print JSON instead of text'
complete -c sidegate -n "__fish_sidegate_using_subcommand lapsing" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand upgrade" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand upgrade" -l binary -d 'The program to start. Left out: the path by which the agent was started, such as /usr/bin/sidegate, where a package has put the new version' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand upgrade" -l deadline -d 'Kill the new process if it is not ready within so many seconds; nothing has changed then' -r
complete -c sidegate -n "__fish_sidegate_using_subcommand upgrade" -l dry-run -d 'Only let the new program load the files'
complete -c sidegate -n "__fish_sidegate_using_subcommand upgrade" -l json -d 'Print JSON instead of text'
complete -c sidegate -n "__fish_sidegate_using_subcommand upgrade" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand drain" -l config -d 'The configuration file, or the directory of its sidegate.toml; by default SIDEGATE_CONFIG, else /etc/sidegate/sidegate.toml' -r -F
complete -c sidegate -n "__fish_sidegate_using_subcommand drain" -s h -l help -d 'Print help'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "run" -d 'Run the agent until SIGTERM; SIGHUP reloads the configuration'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "demo" -d 'Run a demo with a generated certificate, an echo backend and a web page'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "init" -d 'Write a commented starter configuration'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "import" -d 'Translate an nginx configuration, and report the result for each of its lines'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "list" -d 'Write a list of networks from a database'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "check" -d 'Report all errors and warnings of a configuration, and run its tests'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "explain" -d 'Explain why a client is admitted or refused, down to the line of the list'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "diff" -d 'Compare the files with the running configuration, and list the tunnels that a reload would close'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "apply" -d 'Replace the configuration by a checked copy: all of its files, or none'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "promote" -d 'Promote a candidate policy once every check passes'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "schema" -d 'Print the JSON Schema of the configuration files, for editors'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "reload" -d 'Make the running agent reload its files now'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "status" -d 'Show the running agent\'s state: generation, tunnels, rates, certificates, lists and warnings'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "top" -d 'Watch rates, tunnels, clients and refusals of the running agent as they change'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "log-level" -d 'Show or set the filter of the running agent\'s log'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "ban" -d 'Ban a client for a while: it is refused, and its open tunnels are closed'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "unban" -d 'Lift a ban before it expires'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "bans" -d 'List the bans in force'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "refused" -d 'Show which clients the running agent refused most, for which reasons, and by which rules'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "tunnels" -d 'List the open tunnels and exchanges of the running agent, by filter'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "close" -d 'Close tunnels and exchanges of the running agent, by filter; --dry-run counts them first'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "lapsing" -d 'List the entries of lists that lapse soon, with owner and ticket'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "upgrade" -d 'Hand over to a new process, such as that of a new version, without closing a connection'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "drain" -d 'Drain the running agent: stop accepting, close the tunnels, then exit'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and not __fish_seen_subcommand_from run demo init import list check explain diff apply promote schema reload status top log-level ban unban bans refused tunnels close lapsing upgrade drain help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and __fish_seen_subcommand_from import" -f -a "nginx" -d 'An nginx configuration: nginx.conf, or the file of one site'
complete -c sidegate -n "__fish_sidegate_using_subcommand help; and __fish_seen_subcommand_from list" -f -a "from-mmdb" -d 'Write a list of the networks of countries and autonomous systems, from a MaxMind database'
