//! A count or length that an architecture's shapes are computed from.

use std::fmt;
use std::ops::{Add, Div, Mul, Rem, Sub};

/// A length, computed without wrapping: hyperparameters come from files, so sums and products saturate, differences
/// end at zero and a division by zero is zero. No tensor of a readable file has the saturated length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dim(pub u64);

impl Dim {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number as a length in memory; saturates on machines with shorter ones.
    pub fn len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Whether it is zero.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// This, or another length where this is zero: how the loader reads "not said".
    #[must_use]
    pub fn or(self, other: Dim) -> Dim {
        if self.0 == 0 { other } else { self }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Dim {
    fn from(n: u64) -> Dim {
        Dim(n)
    }
}

impl PartialEq<u64> for Dim {
    fn eq(&self, other: &u64) -> bool {
        self.0 == *other
    }
}

impl PartialOrd<u64> for Dim {
    fn partial_cmp(&self, other: &u64) -> Option<std::cmp::Ordering> {
        self.0.partial_cmp(other)
    }
}

macro_rules! operations {
    ($($op:ident $method:ident $how:expr;)+) => {$(
        impl $op for Dim {
            type Output = Dim;
            fn $method(self, other: Dim) -> Dim {
                let how: fn(u64, u64) -> u64 = $how;
                Dim(how(self.0, other.0))
            }
        }
        impl $op<u64> for Dim {
            type Output = Dim;
            fn $method(self, other: u64) -> Dim {
                $op::$method(self, Dim(other))
            }
        }
        impl $op<Dim> for u64 {
            type Output = Dim;
            fn $method(self, other: Dim) -> Dim {
                $op::$method(Dim(self), other)
            }
        }
    )+};
}

operations! {
    Add add u64::saturating_add;
    Sub sub u64::saturating_sub;
    Mul mul u64::saturating_mul;
    Div div |a, b| a.checked_div(b).unwrap_or(0);
    Rem rem |a, b| a.checked_rem(b).unwrap_or(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_wraps_and_nothing_divides_by_zero() {
        let most = Dim(u64::MAX);
        assert_eq!(most * 2, most);
        assert_eq!(most + most, most);
        assert_eq!(Dim(3) - 5, Dim(0));
        assert_eq!(Dim(3) / 0, Dim(0));
        assert_eq!(Dim(3) % 0, Dim(0));
        assert_eq!(2 * Dim(3) + 1, Dim(7));
        assert_eq!(Dim(0).or(Dim(4)), Dim(4));
    }
}
