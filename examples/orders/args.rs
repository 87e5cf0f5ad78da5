//! The command line.

use std::{ffi::OsString, path::PathBuf, process};

use lexopt::{
    Arg::{Long, Short},
    Error, Parser, ValueExt,
};

use crate::kill::{Kill, Step};

const HELP: &str = "\
Sends the CDNOW purchases through a shop of queues, topics and streams, and checks the sums

Usage: orders [OPTIONS]

Options:
      --dir <DIR>       Keep the store in this directory; without it a temporary one is used and removed
      --kill-at <N>     Abort the process in the middle of order N; run again with the same directory to go on
      --kill-in <STEP>  The step of order N in which the process aborts: create (with hundreds of others under
                        way) or charge (with others beside it) [default: charge]
      --buffered        Commit without waiting for the disk: survives a kill, but not a power cut
  -h, --help            Print help";

#[derive(Default)]
pub struct Args {
    pub dir: Option<PathBuf>,
    pub kill: Kill,
    pub buffered: bool,
}

impl Args {
    /// The arguments of this process. Prints the help and ends if it is asked for.
    pub fn of_the_process() -> Result<Args, Error> {
        Args::read(std::env::args_os().skip(1))
    }

    fn read(words: impl Iterator<Item = OsString>) -> Result<Args, Error> {
        let mut args = Args::default();
        let mut parser = Parser::from_args(words.collect::<Vec<_>>());
        let mut step = None;
        while let Some(word) = parser.next()? {
            match word {
                Long("dir") => args.dir = Some(parser.value()?.into()),
                Long("kill-at") => {
                    let at = parser.value()?.parse_with(|text| match text.parse::<u32>() {
                        Ok(0) | Err(_) => Err("--kill-at takes the number of an order, from 1 on"),
                        Ok(at) => Ok(at),
                    })?;
                    args.kill.at = Some(at);
                }
                Long("kill-in") => {
                    step = Some(parser.value()?.parse_with(|text| match text {
                        "create" => Ok(Step::Create),
                        "charge" => Ok(Step::Charge),
                        _ => Err("--kill-in takes `create` or `charge`"),
                    })?);
                }
                Long("buffered") => args.buffered = true,
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    process::exit(0);
                }
                _ => return Err(word.unexpected()),
            }
        }
        if args.kill.at.is_some() && args.dir.is_none() {
            return Err("--kill-at needs --dir: the next run goes on in that directory".into());
        }
        if step.is_some() && args.kill.at.is_none() {
            return Err("--kill-in needs --kill-at".into());
        }
        args.kill.step = step.unwrap_or_default();
        Ok(args)
    }
}
