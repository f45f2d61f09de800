//! Classifies directives that no other module has noted: does Sidegate need them?
//!
//! A directive that is in no list here never counts as needless or harmless.

use crate::import::report::word::DirectiveOutcome;
use crate::import::tree::{DirectiveId, Tree};

/// Blocks whose lines are table entries rather than directives; the block's own line reports for
/// all of them.
const TABLE_BLOCKS: [&str; 6] = ["map", "geo", "types", "split_clients", "charset_map", "match"];

/// Blocks of other protocols, unrelated to HTTP.
const OTHER_PROTOCOL_BLOCKS: [&str; 3] = ["stream", "mail", "rtmp"];

/// Directives whose task doesn't exist in Sidegate or needs no setting, with the reason. A trailing
/// `*` matches any rest.
const NEEDLESS_DIRECTIVES: [(&str, &str); 29] = [
    (
        "accept_mutex* daemon debug_connection env error_log events google_perftools* load_module lock_file master_process multi_accept pcre_jit pid \
      ssl_engine thread_pool timer_resolution use user worker_*",
        "how nginx runs; Sidegate runs as its unit says",
    ),
    (
        "access_log log_format log_not_found log_subrequest open_log_file_cache",
        "Sidegate logs each decision and each tunnel's end by itself",
    ),
    (
        "sendfile* tcp_nodelay tcp_nopush aio* directio* output_buffers read_ahead postpone_output",
        "a relay has nothing to tune there",
    ),
    (
        "proxy_buffer* proxy_busy_buffers_size proxy_max_temp_file_size proxy_request_buffering \
         proxy_temp_*",
        "nothing is buffered whole, and nothing goes to disk",
    ),
    (
        "client_body_buffer_size client_body_in_file_only client_body_in_single_buffer \
         client_body_temp_path client_header_buffer_size connection_pool_size request_pool_size",
        "buffers are not to be sized",
    ),
    (
        "proxy_cache* proxy_no_cache fastcgi_* uwsgi_* scgi_* grpc_* memcached_* open_file_cache* \
         expires etag if_modified_since slice",
        "nothing is cached, and no file is served",
    ),
    (
        "gzip* gunzip* brotli* zstd* sub_filter* add_before_body add_after_body addition_types ssi* charset* default_type types_hash_* types override_charset \
      image_filter* xslt_* xml_entities header_filter_by_lua* body_filter_by_lua* chunked_transfer_encoding pagespeed",
        "bodies are never changed",
    ),
    ("keepalive keepalive_requests keepalive_time zone", "connections to a backend are reused"),
    ("proxy_socket_keepalive", "the kernel probes clients and backends in any case"),
    (
        "proxy_set_body proxy_pass_request_body proxy_pass_request_headers proxy_pass_header \
         proxy_ignore_headers",
        "what a request holds is passed on",
    ),
    (
        "ssl ssl_session_* ssl_dhparam ssl_ecdh_curve ssl_buffer_size ssl_early_data ssl_conf_command ssl_certificate_cache ssl_key_log ssl_engine \
      ssl_object_cache_inheritable ssl_certificate_compression",
        "rustls has safe settings, and none of these",
    ),
    ("ssl_ciphers ssl_prefer_server_ciphers", "TLS 1.2 and 1.3 with the modern suites alone"),
    ("ssl_stapling* ssl_ct*", "not stapled: clients of WebSockets don't ask"),
    ("server_tokens more_clear_headers more_set_headers", "Sidegate adds no such header"),
    (
        "server_names_hash_* variables_hash_* map_hash_* proxy_headers_hash_* \
         limit_conn_log_level limit_req_log_level rewrite_log",
        "a table or a log of nginx' own",
    ),
    ("limit_req_status limit_conn_status", "Sidegate answers 429"),
    (
        "resolver resolver_timeout",
        "the system's resolver finds the addresses of names, again every `resolve`",
    ),
    (
        "proxy_redirect",
        "`Location` is never changed; a backend builds its addresses from X-Forwarded-Proto and \
         Host",
    ),
    (
        "proxy_next_upstream* proxy_intercept_errors",
        "a dial that is refused tries the next backend; nothing else is retried",
    ),
    (
        "proxy_ssl_* proxy_bind proxy_method proxy_force_ranges proxy_ignore_client_abort proxy_store* proxy_headers_* proxy_cookie_* \
      proxy_send_lowat proxy_buffering proxy_bind_dynamic proxy_allow_upstream",
        "connections to a backend have no such settings",
    ),
    (
        "recursive_error_pages msie_* merge_slashes underscores_in_headers ignore_invalid_headers \
         max_headers",
        "requests have one canonical form",
    ),
    (
        "root index alias autoindex* try_files disable_symlinks random_index empty_gif flv mp4* \
         f4f* hls* dav_* create_full_put_path min_delete_depth",
        "no files are served: such a path is refused",
    ),
    ("lingering_* reset_timedout_connection send_lowat", "endings have their own deadlines"),
    (
        "client_header_timeout keepalive_timeout keepalive_disable",
        "[timeouts] of sidegate.toml has its own, set for WebSockets",
    ),
    ("large_client_header_buffers", "a head may have 32 KiB: the listener's `max_head`"),
    (
        "absolute_redirect port_in_redirect server_name_in_redirect",
        "a redirect to a path's slash has neither scheme, host nor port",
    ),
    ("least_conn", "the backend with the fewest tunnels gets the next"),
    (
        "http2* http3* quic_*",
        "HTTP/2 is not in this version: browsers open WebSockets over HTTP/1.1 then",
    ),
    ("satisfy limit_req_dry_run limit_conn_dry_run", "nothing else decides"),
];

/// Directives about clients' certificates. They decide nothing by themselves.
const CERTIFICATE_DIRECTIVES: &str = "ssl_trusted_certificate ssl_client_certificate ssl_crl";

/// Directives that are left out and never refuse a request.
const HARMLESS_DIRECTIVES: &str = "add_header* add_trailer* auth_basic_user_file auth_delay auth_jwt_key_* auth_jwt_leeway auth_jwt_type break early_hints error_page limit_rate limit_rate_after proxy_limit_rate max_ranges mirror* proxy_hide_header \
    rewrite_log set ssl_verify_depth ssl_ocsp* ssl_password_file \
    status_zone stub_status api uninitialized_variable_warn userid* health_check keyval_zone perl_modules perl_require lua_* init_by_lua* \
    init_worker_by_lua* log_by_lua* balancer_by_lua* js_import js_path js_preload_object js_shared_dict_zone js_header_filter js_body_filter \
    modsecurity_rules* modsecurity_transaction_id more_set_input_headers opentelemetry* opentracing* otel_* vhost_traffic_status* \
    referer_hash_* limit_conn_log_level post_action include upstream match state sticky* subrequest_output_buffer_size";

/// Directives that set variables, on which an `if`, a limit or another module may depend.
const VARIABLE_DIRECTIVES: &str = "map geo split_clients auth_request_set auth_jwt_claim_set auth_jwt_header_set ancient_browser* modern_browser* geoip* keyval \
    js_set js_var perl_set secure_link* set_by_lua* valid_referers";

/// Directives that are carried over wherever they apply to a location that passes requests on.
const UNUSED_DIRECTIVES: &str = "allow auth_* client_body_timeout client_max_body_size deny limit_conn limit_conn_zone limit_req limit_req_zone listen location proxy_connect_timeout \
    proxy_http_version proxy_pass proxy_read_timeout proxy_send_timeout proxy_set_header real_ip_header real_ip_recursive return rewrite server server_name \
    send_timeout set_real_ip_from ssl_certificate ssl_certificate_key ssl_protocols ssl_reject_handshake ssl_verify_client if limit_except internal";

/// Returns word and text for the directive `id`. `None` means that it gets no line of its own.
pub fn classify(tree: &Tree, id: DirectiveId) -> Option<(DirectiveOutcome, &'static str)> {
    let line = &tree.lines[id];
    let around = |names: &[&str]| {
        line.within.iter().any(|outer| names.contains(&tree.lines[*outer].name.as_str()))
    };
    if around(&TABLE_BLOCKS) || around(&["if", "limit_except"]) {
        return None; // said of the block
    }
    if OTHER_PROTOCOL_BLOCKS.contains(&line.name.as_str()) || around(&OTHER_PROTOCOL_BLOCKS) {
        return Some((DirectiveOutcome::Dropped, "Sidegate speaks HTTP and WebSocket alone"));
    }
    if around(&["events"]) {
        return Some((DirectiveOutcome::Needless, NEEDLESS_DIRECTIVES[0].1));
    }
    let is_in = |names: &str| names.split_whitespace().any(|name| is_meant(name, &line.name));
    if is_in(UNUSED_DIRECTIVES) {
        return Some((DirectiveOutcome::Dropped, "it holds for nothing that is passed on"));
    }
    if line.name == "error_page" && leads_on(&line.text) {
        return Some((
            DirectiveOutcome::Closes,
            "an error leads nowhere else: what was passed on after one is refused",
        ));
    }
    if is_in(CERTIFICATE_DIRECTIVES) {
        return Some((
            DirectiveOutcome::Dropped,
            "`client_certificates` of a listener has it as `ca` or `crl`, and the import writes no \
             such key: see `ssl_verify_client`",
        ));
    }
    if is_in(HARMLESS_DIRECTIVES) {
        return Some((DirectiveOutcome::Dropped, "Sidegate has no equivalent"));
    }
    if is_in(VARIABLE_DIRECTIVES) {
        return Some((
            DirectiveOutcome::Differs,
            "variables are not carried over: see what decides by it",
        ));
    }
    let known = NEEDLESS_DIRECTIVES.iter().find(|(names, _)| is_in(names));
    let unknown = (
        DirectiveOutcome::Differs,
        "not known here, and left out; it holds for nothing that is passed on",
    );
    Some(known.map_or(unknown, |(_, why)| (DirectiveOutcome::Needless, *why)))
}

/// Returns whether an `error_page` replaces the error's answer: by a named location, or with `=` by
/// a path. Otherwise the error keeps its status and only its page changes.
fn leads_on(text: &str) -> bool {
    let words = || text.trim_end_matches(';').split_whitespace();
    let is_replaced = words().any(|word| word.starts_with('='));
    words().last().is_some_and(|to| to.starts_with('@') || (is_replaced && to.starts_with('/')))
}

/// Returns whether `name` is a known directive, of nginx or of a module, that refuses no request by
/// itself or is handled elsewhere.
pub fn is_known(name: &str) -> bool {
    let lists = NEEDLESS_DIRECTIVES.iter().map(|(names, _)| *names).chain([
        CERTIFICATE_DIRECTIVES,
        HARMLESS_DIRECTIVES,
        VARIABLE_DIRECTIVES,
        UNUSED_DIRECTIVES,
    ]);
    let mut names = lists.flat_map(str::split_whitespace);
    // An unknown `auth_…` of some module may refuse, so the wildcard makes none known.
    let listed = names.any(|pattern| pattern != "auth_*" && is_meant(pattern, name));
    listed
        || TABLE_BLOCKS.contains(&name)
        || OTHER_PROTOCOL_BLOCKS.contains(&name)
        || name == "http"
}

/// Returns whether a directive inside an `if` sends a request elsewhere than the others go.
pub fn leads_away(name: &str) -> bool {
    let plain = ["set", "break", "proxy_pass"].contains(&name);
    let settles = UNUSED_DIRECTIVES.split_whitespace().any(|pattern| is_meant(pattern, name));
    !plain && (settles || !is_known(name))
}

fn is_meant(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}
