//! HTTP/1.1 as a gateway handles it: heads, bodies, answers, and their deadlines. It dials no
//! backend and accepts no connection.

pub(super) mod body;
pub(super) mod deadlines;
pub(super) mod expect;
pub(super) mod forward;
pub mod head;
pub(super) mod head_check;
pub(super) mod identity;
pub(super) mod in_flight;
pub(super) mod interim;
pub(super) mod pace;
pub(super) mod progress;
pub(super) mod reply;
pub(super) mod request_filter;
