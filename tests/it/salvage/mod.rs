//! Damage, which `verify` finds and `salvage` copies around.

mod bits;
mod check;
mod compare;
mod crash;
mod damage;
mod filters;
mod random;
mod sample;
mod settings;
