//! What a row is to reach, and whether it does.

use crate::{
    cost::{Cost, Measure},
    table,
};

/// A bound on what a row costs. A row has several.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// The most at each size, by what it is at the size before: 12 is linear where sizes are a factor of ten apart.
    Growth(Measure, f64),
    /// The most at the largest size, by what it is at the smallest one.
    Ratio(Measure, f64),
    /// The most at any size.
    Most(Measure, f64),
    /// The most at the largest size, for each of the things.
    Each(Measure, f64),
    /// The most at the largest size: so many for each of the things, and so many for all.
    EachAnd(Measure, f64, f64),
}

/// Times below this say nothing of growth, and count as this.
const SHORT: f64 = 1e-3;

impl Target {
    /// The target in words.
    pub fn told(&self) -> String {
        match *self {
            Target::Growth(measure, most) => format!("{} grows {most} times", measure.name()),
            Target::Ratio(measure, most) => {
                format!("{} {most} times that of the smallest", measure.name())
            }
            Target::Most(measure, most) => {
                format!("{} {}", measure.name(), table::value(measure, most))
            }
            Target::Each(measure, most) => {
                format!("{} {} each", measure.name(), table::value(measure, most))
            }
            Target::EachAnd(measure, each, all) => {
                let (each, all) = (table::value(measure, each), table::value(measure, all));
                format!("{} {each} each and {all}", measure.name())
            }
        }
    }

    /// What is reached. `None` if it was not measured. Above 1 the target is missed by that factor.
    fn reached(&self, costs: &[(u64, Cost)]) -> Option<f64> {
        let (first, last) = (costs.first()?, costs.last()?);
        let by = |(_, before): &(u64, Cost), (_, cost): &(u64, Cost), measure: Measure| {
            let least = if measure.is_time() { SHORT } else { 1.0 };
            cost.get(measure)?.max(least).checked_by(before.get(measure)?.max(least))
        };
        let reached = match *self {
            Target::Growth(measure, most) => {
                let pairs = costs.windows(2).map(|pair| by(&pair[0], &pair[1], measure));
                pairs.collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::max)? / most
            }
            Target::Ratio(measure, most) if costs.len() > 1 => by(first, last, measure)? / most,
            Target::Ratio(..) => return None,
            Target::Most(measure, most) => {
                let all = costs.iter().map(|(_, cost)| cost.get(measure));
                all.collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::max)? / most
            }
            Target::Each(measure, most) => last.1.get(measure)? / last.0 as f64 / most,
            Target::EachAnd(measure, each, all) => {
                last.1.get(measure)? / (each * last.0 as f64 + all)
            }
        };
        Some(reached)
    }
}

/// Whether all targets are reached, or which ones are not.
pub fn verdict(targets: &[Target], costs: &[(u64, Cost)]) -> String {
    let mut missed = Vec::new();
    let mut unknown = Vec::new();
    for target in targets {
        match target.reached(costs) {
            None => unknown.push(target.told()),
            Some(reached) if reached > 1.0 => {
                missed.push(format!("**not met**: {} ({reached:.1} times that)", target.told()));
            }
            Some(_) => {}
        }
    }
    if !unknown.is_empty() && missed.is_empty() {
        return format!("not measured: {}", unknown.join("; "));
    }
    if missed.is_empty() { "met".to_owned() } else { missed.join("; ") }
}

/// What all of them ask for.
pub fn told(targets: &[Target]) -> String {
    targets.iter().map(Target::told).collect::<Vec<_>>().join("; ")
}

trait CheckedBy {
    fn checked_by(self, other: f64) -> Option<f64>;
}

impl CheckedBy for f64 {
    fn checked_by(self, other: f64) -> Option<f64> {
        (other > 0.0).then_some(self / other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(of: &[(u64, f64)]) -> Vec<(u64, Cost)> {
        let cost = |&(size, cpu): &(u64, f64)| {
            let mut cost = Cost::default();
            cost.set(Measure::Cpu, cpu);
            (size, cost)
        };
        of.iter().map(cost).collect()
    }

    #[test]
    fn a_row_that_grows_too_fast_misses_its_target() {
        let targets = [Target::Growth(Measure::Cpu, 12.0), Target::Most(Measure::Cpu, 1.5)];
        assert_eq!(verdict(&targets, &costs(&[(1, 0.01), (10, 0.1), (100, 1.0)])), "met");
        let quadratic = verdict(&targets, &costs(&[(1, 0.01), (10, 1.0)]));
        assert!(quadratic.starts_with("**not met**: CPU grows 12 times (8.3"), "{quadratic}");
        let long = verdict(&targets, &costs(&[(1, 0.5), (10, 2.0)]));
        assert!(long.starts_with("**not met**: CPU 1.50 s (1.3"), "{long}");
        let short = costs(&[(1, 1e-6), (10, 1e-4)]);
        assert_eq!(verdict(&targets, &short), "met", "too short to tell");
        let of_stall = [Target::Most(Measure::Stall, 1.0)];
        assert!(verdict(&of_stall, &short).starts_with("not measured"));
    }
}
