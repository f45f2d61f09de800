//! HTTP/1.1 as a gateway handles it: heads, bodies, answers, and their deadlines. It dials no
//! backend and accepts no connection.

pub(super) mod answer;
pub(super) mod body;
pub(super) mod course;
pub(super) mod expect;
pub(super) mod flight;
pub(super) mod forward;
pub mod head;
pub(super) mod identity;
pub(super) mod interim;
pub(super) mod lines;
pub(super) mod malformed;
pub(super) mod pace;
pub(super) mod patience;
