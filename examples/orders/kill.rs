//! Kills the shop, to show that it survives.

use posthouse::Transaction;

use sales::{Order, Result, Sales};

/// The place where the process aborts, if it does.
#[derive(Clone, Copy, Default)]
pub struct Kill {
    pub at: Option<u32>,
    pub step: Step,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Step {
    /// While it is created, with hundreds of others under way.
    Create,
    /// While it is charged, and others with it.
    #[default]
    Charge,
}

impl Kill {
    /// Checks that there is such an order; fails with a sentence if there is none.
    pub fn check(&self, sales: &Sales) -> Result<(), String> {
        match self.at {
            Some(at) if at > sales.last() => {
                Err(format!("there is no order {at}: the last one is {}", sales.last()))
            }
            _ => Ok(()),
        }
    }

    pub fn meets(&self, step: Step, order: &Order) -> bool {
        self.at == Some(order.number) && self.step == step
    }

    /// Fails if this run should have been killed, and was not.
    pub fn missed(&self) {
        if let Some(at) = self.at {
            eprintln!("nothing was killed: an earlier run had done that step of order {at}");
        }
    }
}

/// Aborts at the worst moment: the transaction is committed, but its caller does not know it, and it may not
/// be on the disk. The other threads end wherever they are.
pub fn die(tx: Transaction, order: &Order) -> Result<()> {
    let _ticket = tx.commit_ticket()?;
    eprintln!("killed in the middle of order {}", order.number);
    std::process::abort();
}
