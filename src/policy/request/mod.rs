//! The gate: a request head becomes a [`Request`], or is refused before any policy is consulted.
//!
//! The gate runs after an HTTP/1.1 parser, usually hyper's, which accepts more than a gate may. It
//! reduces each head to a single meaning. It never looks at a policy, a key or a body.

mod connection;
pub(in crate::policy) mod field;
mod gate;
mod host;
mod path;
pub mod reading;
mod request_path;
pub mod target;
mod url;

pub use self::connection::options;
pub use self::gate::{Request, RequestType, Scheme};
pub use self::host::Host;
pub use self::path::{canonical_path, decoded};
pub use self::request_path::{RequestPath, has_dots};
pub use self::url::UrlError;
