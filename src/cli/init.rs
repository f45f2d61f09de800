//! placeholder replaced below
use crate::cli::Exit;
#[derive(clap::Args)]
pub struct Init {}
pub fn init(_: &Init) -> Exit {
    Exit::Yes
}
