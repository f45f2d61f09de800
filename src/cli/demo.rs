//! placeholder replaced below
use crate::cli::Exit;
#[derive(clap::Args)]
pub struct Demo {}
pub fn demo(_: &Demo) -> Exit {
    Exit::Yes
}
