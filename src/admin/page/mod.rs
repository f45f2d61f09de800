//! The page `/status`: what `sidegate top` shows, for a browser on this host. It reads and changes
//! nothing.
//!
//! `guard` decides which requests are answered, `service` answers them, and `view` makes HTML of
//! the overview. All viewers share one rendering a second, made on the control plane.

mod body;
mod guard;
mod listener;
mod rendering;
mod service;
mod view;
mod viewers;

pub use self::listener::PageListener;
